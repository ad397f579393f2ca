"""A file of ranges comes back as it was, and nothing else passes for one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ppsr.calibration.ranges import Ranges, read_ranges, write_ranges
from ppsr.models.errors import UsageError

SHA = "0123456789abcdef" * 4
RANGES = Ranges(SHA, "mse", 3, {"layers.2.3.wqkv/input": 0.1 + 0.2, "conv_first/output": 7e-20})


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_ranges(path, RANGES)
    assert read_ranges(path) == RANGES
    assert [one.name for one in tmp_path.iterdir()] == ["ranges.json"]


def test_the_same_ranges_give_the_same_text() -> None:
    turned = Ranges(SHA, "mse", 3, dict(reversed(RANGES.amax.items())))
    assert turned.to_text() == RANGES.to_text()


def test_they_are_of_one_graph() -> None:
    RANGES.require(SHA)
    other = SHA.replace("0", "f")
    with pytest.raises(UsageError) as caught:
        RANGES.require(other)
    assert str(caught.value) == (
        "the ranges are of another model, scale or weights (expected graph f123456789ab, got "
        "0123456789ab); collect them again with: ppsr-export --int8 --data DIR"
    )


def changed(**changes: Any) -> str:
    content = json.loads(RANGES.to_text()) | changes
    return json.dumps({key: value for key, value in content.items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is no JSON"),
        (RANGES.to_text()[:-9], "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "it is no object"),
        ('{"a": 1}', "it lacks 'graph_sha256'"),
        (changed(amax=...), "it lacks 'amax'"),
        (changed(amax=[1.0]), "a garbled 'amax'"),
        (changed(images="3"), "a garbled 'images'"),
        (changed(images=True), "a garbled 'images'"),
        (changed(images=0), "at least one picture, got 0"),
        (changed(graph_sha256=None), "a garbled 'graph_sha256'"),
        (changed(estimator="max"), "of minmax, percentile, entropy, mse, got 'max'"),
        (changed(more=1), "an unknown key 'more'"),
        (changed(amax={"a/input": 0}), "an amax above 0 for a/input, got 0"),
        (changed(amax={"a/input": -1.5}), "an amax above 0 for a/input, got -1.5"),
        (changed(amax={"a/input": float("nan")}), "an amax above 0 for a/input, got nan"),
        (changed(amax={"a/input": float("inf")}), "an amax above 0 for a/input, got inf"),
        (changed(amax={"a/input": "1"}), "an amax above 0 for a/input, got '1'"),
        (changed(amax={"a/input": True}), "an amax above 0 for a/input, got True"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(fault)) as caught:
        read_ranges(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("collect them again with: ppsr-export --int8 --data DIR")
    assert "\n" not in message


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the ranges .*none\.json: No such file"):
        read_ranges(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot read the ranges .*: Is a directory"):
        read_ranges(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\xff\xfe")
    with pytest.raises(UsageError, match=r"model.onnx is no file of ranges \(it is no UTF-8 text"):
        read_ranges(tmp_path / "model.onnx")
