from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from ppsr.models.config import PurePass
from ppsr.models.errors import ArtefactError
from ppsr.runtime.artefact import Artefact, Precision, Tuning

OWN = PurePass(window=4, shift=0, compensation=False, centres=((0, 0, 0), (88, 88, 88)))
SETTINGS = {"window": 8, "shift": 4, "compensation": True, "centres": [[1, 2, 3]]}


@pytest.mark.parametrize("settings", [None, PurePass(), OWN])
def test_metadata_comes_back(identity: Callable, settings: PurePass | None) -> None:
    artefact = replace(identity(), pure_pass=settings)
    assert Artefact.from_metadata(artefact.to_metadata(), "it") == artefact


@pytest.mark.parametrize("form", ["self-contained", "routed", "routing"])
@pytest.mark.parametrize("tuning", get_args(Tuning))
def test_what_it_is_tuned_for_comes_back(identity: Callable, form: str, tuning: Tuning) -> None:
    artefact = replace(identity(form=form), tuned_for=tuning)
    assert artefact.to_metadata()["tuned_for"] == tuning
    assert Artefact.from_metadata(artefact.to_metadata(), "it") == artefact


@pytest.mark.parametrize(("ratio", "label"), [(0.8, "-0.8"), (0.5, "-0.5"), (1.0, "-1")])
def test_the_ratio_comes_back_and_is_in_the_name(
    identity: Callable, ratio: float, label: str
) -> None:
    """Files of networks without one, and those from before, do not speak of it."""
    changes = {"model": "camixer-atd-light", "pure_pass": None, "ratio": ratio}
    artefact = replace(identity(), **changes)
    assert Artefact.from_metadata(artefact.to_metadata(), "it") == artefact
    assert artefact.stem == f"camixer-atd-light{label}_x2_fp32"
    assert "ratio" not in identity().to_metadata()
    with pytest.raises(ArtefactError, match="garbled 'ratio'"):
        Artefact.from_metadata({**artefact.to_metadata(), "ratio": "half"}, "it")


@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_precision_comes_back(identity: Callable, precision: Precision) -> None:
    artefact = replace(identity(), precision=precision)
    assert Artefact.from_metadata(artefact.to_metadata(), "it") == artefact
    assert artefact.stem == f"pp-atd-light_x2_{precision}"


def test_files_from_before_were_tuned_for_any_runtime(identity: Callable) -> None:
    metadata = identity().to_metadata()
    del metadata["tuned_for"]
    assert Artefact.from_metadata(metadata, "it") == identity()
    assert identity().tuned_for == "any"


@pytest.mark.parametrize(
    ("form", "tuning", "stem"),
    [
        ("self-contained", "any", "pp-atd-light_x3_fp32"),
        ("self-contained", "onnxruntime", "pp-atd-light_x3_fp32_onnxruntime"),
        ("routed", "any", "pp-atd-light_x3_fp32_routed"),
        ("routed", "openvino", "pp-atd-light_x3_fp32_routed_openvino"),
        ("routing", "any", "pp-atd-light_routing"),
    ],
)
def test_names_of_files(identity: Callable, form: str, tuning: Tuning, stem: str) -> None:
    assert replace(identity(form=form, scale=3), tuned_for=tuning).stem == stem


@pytest.mark.parametrize(
    "key",
    ["model", "scale", "form", "precision", "opset", "weights_sha256", "version", "pure_pass"],
)
def test_a_missing_key_is_named(identity: Callable, key: str) -> None:
    metadata = identity().to_metadata()
    del metadata[key]
    with pytest.raises(ArtefactError) as caught:
        Artefact.from_metadata(metadata, "a.onnx")
    assert str(caught.value) == (
        f"a.onnx was not made by ppsr-export (its metadata lacks '{key}'); "
        "make a model file with: ppsr-export --scale 2"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "edsr"),
        ("scale", "5"),
        ("scale", "2.0"),
        ("scale", ""),
        ("form", "ROUTED"),
        ("precision", "bf16"),
        ("opset", "twenty"),
        ("tuned_for", ""),
        ("tuned_for", "Any"),
        ("tuned_for", "tensorrt"),
    ],
)
def test_a_garbled_key_is_named(identity: Callable, key: str, value: str) -> None:
    metadata = {**identity().to_metadata(), key: value}
    with pytest.raises(ArtefactError, match=rf"\(its metadata has a garbled '{key}'\); make"):
        Artefact.from_metadata(metadata, "a.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "5",
        "[]",
        "{}",
        '"centres"',
        '{"centres": [[1, 2, 3]]}',
        "[" * 100_000,
        *(
            json.dumps({**SETTINGS, **change})
            for change in (
                {"centres": [[1, 2]]},
                {"centres": []},
                {"centres": [["a", 2, 3]]},
                {"centres": [[1, 2, 89]]},
                {"centres": [[1, 2, float("nan")]]},
                {"centres": [5]},
                {"centres": None},
                {"window": 8.0},
                {"window": 5},
                {"window": "8"},
                {"shift": 8},
                {"compensation": 1},
                {"more": 1},
            )
        ),
    ],
    ids=lambda text: text[:80],
)
def test_garbled_settings_are_no_traceback(identity: Callable, text: str) -> None:
    metadata = {**identity().to_metadata(), "pure_pass": text}
    with pytest.raises(ArtefactError, match=r"\(its metadata has a garbled 'pure_pass'\); make"):
        Artefact.from_metadata(metadata, "a.onnx")
