"""What an export may be asked for, and what is refused before anything slow begins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest

from ppsr.export import flavour
from ppsr.export.options import (
    CPU_TARGETS,
    DEFAULT_PROFILES,
    FORMS,
    SMALLER_PROFILES,
    TARGETS,
    ExportOptions,
    Profile,
    Target,
)
from ppsr.export.tuning import RECIPES
from ppsr.models.config import PurePass
from ppsr.models.errors import UsageError
from ppsr.runtime.artefact import Tuning

HERE = Path(__file__)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"scale": 5}, "expected scale to be one of 2, 3, 4, got 5"),
    ({"scale": "2"}, "expected scale to be one of 2, 3, 4, got '2'"),
    (
        {"model": "edsr"},
        "expected model to be one of pp-atd-light, atd-light, camixer-atd-light, adaformer, got",
    ),
    ({"ratio": 0.5}, "pp-atd-light has no ratio: expected ratio=None, got 0.5; take camixer"),
    ({"model": "camixer-atd-light", "ratio": 1.5}, "expected a ratio above 0 and up to 1, got 1.5"),
    ({"model": "adaformer", "pure_pass": PurePass()}, "adaformer has no routing: expected pure"),
    (
        {"model": "camixer-atd-light", "profiles": (Profile(max=(1088, 1920)),)},
        "at most 983040 pixels .* among 3840 windows at most in an engine, got 1088x1920",
    ),
    ({"model": "adaformer", "target": "openvino", "fp16": True}, "expected no fp16 for the target"),
    ({"form": "neither"}, "expected form to be one of both, self-contained, routed, got 'neither'"),
    ({"opset": 19}, "expected opset to be one of 20, 21, 22, got 19"),
    ({"opset": 23}, "expected opset to be one of 20, 21, 22, got 23"),
    ({"opset": 20, "target": "onnxruntime"}, "expected opset to be one of 23, got 20"),
    ({"atol": 0.0}, "expected an atol above 0, got 0"),
    ({"atol": float("nan")}, "expected an atol above 0, got nan"),
    ({"output": HERE}, "is a file"),
    ({"int8": True}, "calibration FILE, or with data DIR to take them from, got neither"),
    ({"int8": True, "calibration": HERE, "data": HERE}, "got calibration and data"),
    ({"calibration": HERE}, "calibration is for int8; add it, or leave calibration out"),
    ({"data": HERE, "fp16": True}, "data is for int8; add it, or leave data out"),
    ({"int8": True, "data": HERE, "fp16": True}, "expected one precision, got fp16 and int8"),
    ({"recipe": HERE, "fp16": True}, "expected one precision, got fp16 and recipe"),
    ({"estimator": "mean"}, "expected estimator to be one of minmax, "),
    ({"recipe": HERE, "target": "openvino"}, "expected no mixed for the target openvino, which"),
    ({"int8": True, "data": HERE, "target": "onnxruntime"}, "expected no int8 for the target onnx"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)


def test_derived_values() -> None:
    assert ExportOptions().forms == FORMS == ("self-contained", "routed")
    assert ExportOptions(form="routed").forms == ("routed",)
    assert ExportOptions().precision == "fp32"
    assert ExportOptions(fp16=True).precision == "fp16"
    assert ExportOptions(int8=True, data=HERE).precision == "int8"
    assert ExportOptions(recipe=HERE).precision == "mixed"


def test_graphs_for_onnxruntime_have_an_opset_of_their_own() -> None:
    """Their routing has not: it is the same file for all."""
    tuned = ExportOptions(target="onnxruntime")
    assert [tuned.opset_of(form) for form in ("routed", "self-contained", "routing")] == [
        23,
        23,
        20,
    ]
    assert ExportOptions(target="onnxruntime", opset=23).opset_of("routing") == 20
    assert ExportOptions(target="openvino").opset_of("routed") == 20
    assert ExportOptions(target="onnx", opset=22).opset_of("routing") == 22
    assert ExportOptions(model="camixer-atd-light", target="onnxruntime").opset_of("routed") == 20


def test_graphs_for_cpus_are_made_where_the_network_has_one() -> None:
    tunings = {
        (model, target): ExportOptions(model=model, target=target).tuning
        for model in ("pp-atd-light", "camixer-atd-light", "adaformer")
        for target in CPU_TARGETS
    }
    assert [pair for pair, tuning in tunings.items() if tuning == "any"] == [
        *(("camixer-atd-light", target) for target in CPU_TARGETS),
        ("adaformer", "openvino"),
    ]
    assert not ExportOptions(model="adaformer", target="openvino").may_build


def test_engines_that_choose_among_windows_have_smaller_profiles() -> None:
    assert ExportOptions(model="camixer-atd-light").profiles == SMALLER_PROFILES
    assert ExportOptions(model="adaformer").profiles == DEFAULT_PROFILES
    assert max(math.prod(profile.max) for profile in SMALLER_PROFILES) <= 3840 * 256


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
    ("options", "words"),
    [
        (
            {"target": "cuda"},
            "expected target to be one of auto, onnx, onnxruntime, openvino, tensorrt, ",
        ),
        ({"profiles": ()}, "expected at least one profile, got none"),
        ({"inspect": True, "target": "onnx"}, "expected an engine to inspect, got the target onnx"),
    ],
)
def test_refuses_engines_of_no_kind(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExportOptions(**options)


@pytest.mark.parametrize(
    ("target", "tuning", "builds"),
    [
        ("auto", "any", True),
        ("onnx", "any", False),
        ("onnxruntime", "onnxruntime", False),
        ("openvino", "openvino", False),
        ("tensorrt", "any", True),
        ("tensorrt-rtx", "any", True),
    ],
)
def test_what_a_target_means(target: Any, tuning: str, builds: bool) -> None:
    options = ExportOptions(target=target)
    assert (options.tuning, options.may_build) == (tuning, builds)
    assert tuning in RECIPES
    if builds:
        assert ExportOptions(target=target, inspect=True).inspect
    else:
        with pytest.raises(UsageError, match=f"engine to inspect, got the target {target}$"):
            ExportOptions(target=target, inspect=True)


def test_every_target_and_every_tuning_is_known() -> None:
    assert TARGETS == ("auto", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
    assert set(RECIPES) == set(get_args(Tuning))
    assert {ExportOptions(target=target).tuning for target in TARGETS} == set(RECIPES)


@pytest.mark.parametrize("target", TARGETS)
def test_cpus_get_no_fp16(target: Target) -> None:
    if target in ("onnxruntime", "openvino"):
        with pytest.raises(UsageError, match=f"no fp16 for the target {target}, which is for CPU"):
            ExportOptions(target=target, fp16=True)
    else:
        assert ExportOptions(target=target, fp16=True).fp16


@pytest.mark.parametrize("target", ["onnx", "onnxruntime", "openvino"])
def test_a_target_without_an_engine(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for, and what is told says why."""
    monkeypatch.setattr(flavour, "load_flavour", None)
    assert flavour.choose_flavour(target) is None
    assert flavour.why_no_engine(target) == f"No engine was built, as asked (--target {target})."


@pytest.mark.parametrize("takes_active", [False, True])
def test_default_profiles_reach_from_small_pictures_to_full_hd(takes_active: bool) -> None:
    ranges = [profile.shape_range(takes_active) for profile in DEFAULT_PROFILES]
    assert any(one.holds((16, 16), 0) for one in ranges)
    assert any(one.holds((1088, 1920), 1088 * 1920) for one in ranges)
    assert any(one.holds((1920, 1088), 1) for one in ranges)
    for one in ranges:
        height, width = one.max
        if takes_active:
            assert one.tokens is not None
            assert one.tokens[0] == 0
            assert 0 < one.tokens[1] < one.opt[0] * one.opt[1]
            assert one.tokens[2] == height * width
        else:
            assert one.tokens is None
