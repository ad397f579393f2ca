"""What an export may be asked for, and what is refused before anything slow begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ppsr.export import engine
from ppsr.export.options import FORMS, ExportOptions, Profile
from ppsr.models.errors import UsageError

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"scale": 5}, "expected scale to be one of 2, 3, 4, got 5"),
    ({"scale": "2"}, "expected scale to be one of 2, 3, 4, got '2'"),
    ({"model": "edsr"}, "expected model to be one of pp-atd-light, atd-light, got 'edsr'"),
    ({"form": "neither"}, "expected form to be one of both, self-contained, routed, got 'neither'"),
    ({"opset": 19}, "expected opset to be one of 20, 21, 22, got 19"),
    ({"atol": 0.0}, "expected an atol above 0, got 0"),
    ({"atol": float("nan")}, "expected an atol above 0, got nan"),
    ({"output": Path(__file__)}, "is a file"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)


def test_derived_values() -> None:
    assert ExportOptions().precision == "fp32"
    assert ExportOptions(fp16=True).precision == "fp16"
    assert ExportOptions().forms == FORMS == ("self-contained", "routed")
    assert ExportOptions(form="routed").forms == ("routed",)


def test_profiles_are_rounded_up_to_the_grid() -> None:
    assert Profile((1, 16), (17, 33), (300, 430)) == Profile((16, 16), (32, 48), (304, 432))
    assert Profile().max == (1088, 1920)


@pytest.mark.parametrize("name", ["min", "opt", "max"])
@pytest.mark.parametrize("size", [(0, 64), (64, -1)])
def test_profiles_have_at_least_one_pixel(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"expected a {name} shape of at least 1x1, got "):
        Profile(**{name: size})


@pytest.mark.parametrize(
    "shapes",
    [
        {"min": (400, 64)},
        {"min": (64, 700)},
        {"opt": (1100, 640)},
        {"max": (368, 600)},
    ],
)
def test_profiles_are_in_order(shapes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match="expected min <= opt <= max shapes at each side, got "):
        Profile(**shapes)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ([], "neither tensorrt nor tensorrt-rtx is installed"),
        (["tensorrt_rtx"], "tensorrt_rtx is installed; the _routed file"),
        (["tensorrt", "tensorrt_rtx"], "tensorrt, tensorrt_rtx is installed"),
    ],
)
def test_says_why_there_is_no_engine(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], words: str
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda module: module in installed or None)
    assert words in engine.why_no_engine()
    assert engine.why_no_engine().startswith("No TensorRT engine was built")
