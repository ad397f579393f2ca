from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ppsr.models.errors import ArtefactError
from ppsr.runtime.sidecar import (
    Plan,
    ShapeRange,
    Sidecar,
    plan_stem,
    read_sidecar,
    routing_path,
    sha256,
    sidecar_path,
)

RTX = Plan("tensorrt-rtx", "1.7.1.116", "ab" * 32)
BOUND = Plan("tensorrt", "11.4.0.106", "cd" * 32, "NVIDIA GeForce RTX 4090", "8.9")
RANGES = (
    ShapeRange((64, 64), (192, 320), (368, 640), (0, 61440, 235520)),
    ShapeRange((64, 64), (544, 960), (1088, 1920), (0, 522240, 2088960)),
)


@pytest.fixture
def sidecar(identity: Callable) -> Sidecar:
    return Sidecar(
        artefact=identity(form="routed"),
        onnx_sha256="ef" * 32,
        date="2026-11-20T10:00:00+00:00",
        versions={"tensorrt_rtx": "1.7.1.116"},
        profiles=RANGES,
        parity=({"height": 16, "width": 16, "psnr": None, "max_abs": 1e-6},),
        plan=RTX,
    )


@pytest.mark.parametrize("plan", [None, RTX, BOUND])
def test_what_is_written_is_read_back(sidecar: Sidecar, plan: Plan | None) -> None:
    sidecar = replace(sidecar, plan=plan)
    assert Sidecar.from_text(sidecar.to_text(), "it") == sidecar


def test_a_verification_is_kept(sidecar: Sidecar) -> None:
    told = replace(sidecar, verification={"passed": True, "overall": {"psnr_least": None}})
    assert Sidecar.from_text(told.to_text(), "it") == told
    assert "verification" not in json.loads(sidecar.to_text())


def test_a_plan_s_sidecar_is_one_flat_object(sidecar: Sidecar) -> None:
    content = json.loads(sidecar.to_text())
    assert sidecar.artefact.to_metadata().items() <= content.items()
    assert content["flavour"] == "tensorrt-rtx"
    assert content["flavour_version"] == "1.7.1.116"
    assert content["gpu_name"] is content["compute_capability"] is None
    assert content["plan_sha256"] == "ab" * 32
    assert content["onnx_sha256"] == "ef" * 32
    assert content["profiles"][0] == {
        "min": [64, 64],
        "opt": [192, 320],
        "max": [368, 640],
        "tokens": [0, 61440, 235520],
    }


def test_the_description_of_an_onnx_file_is_read(identity: Callable) -> None:
    """As ppsr-export 0.1 wrote it."""
    content = {
        **identity(form="routed").to_metadata(),
        "onnx_sha256": "0" * 64,
        "date": "2026-11-20T10:00:00+00:00",
        "versions": {"torch": "2.13.0"},
        "profiles": [{"min": [64, 64], "opt": [368, 640], "max": [1088, 1920]}],
        "parity": [],
    }
    sidecar = Sidecar.from_text(json.dumps(content), "it")
    assert sidecar.plan is None
    assert sidecar.profiles == (ShapeRange((64, 64), (368, 640), (1088, 1920)),)
    assert json.loads(sidecar.to_text()) == content


def test_no_number_that_json_lacks_is_written(sidecar: Sidecar) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(sidecar, parity=({"psnr": float("inf")},)).to_text()


@pytest.mark.parametrize(
    "key",
    ["flavour", "flavour_version", "gpu_name", "onnx_sha256", "profiles", "parity", "date"],
)
def test_a_missing_key_is_named(sidecar: Sidecar, key: str) -> None:
    content = json.loads(sidecar.to_text())
    del content[key]
    with pytest.raises(ArtefactError, match=f"a.plan.json was not made by .*lacks '{key}'"):
        Sidecar.from_text(json.dumps(content), "a.plan.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flavour", "tensorflow"),
        ("flavour_version", 11),
        ("opset", float("inf")),
        ("plan_sha256", None),
        ("compute_capability", 8.9),
        ("profiles", 5),
        ("profiles", [{"min": [64, 64], "opt": [64, 64], "max": [64]}]),
        ("profiles", [{"min": [64, 64], "opt": [64, 64], "max": [64, "64"]}]),
        ("profiles", [{"min": [6, 6], "opt": [6, 6], "max": [6, 6], "tokens": [1, 2]}]),
        ("versions", 5),
        ("parity", None),
        ("verification", [1]),
        ("scale", "5"),
        ("scale", 2),
        ("pure_pass", []),
    ],
)
def test_a_garbled_key_is_named(sidecar: Sidecar, key: str, value: object) -> None:
    content = {**json.loads(sidecar.to_text()), key: value}
    with pytest.raises(ArtefactError, match=f"garbled '{key}'"):
        Sidecar.from_text(json.dumps(content), "a.plan.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "[" * 100_000])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ArtefactError, match=r"was not made by ppsr-export \(it is no JSON"):
        Sidecar.from_text(text, "a.plan.json")


def test_files(tmp_path: Path, sidecar: Sidecar) -> None:
    plan = tmp_path / "a.plan"
    assert sidecar_path(plan) == tmp_path / "a.plan.json"
    assert routing_path(plan) == tmp_path / "a_routing.plan"
    assert read_sidecar(plan) is None
    sidecar_path(plan).write_text(sidecar.to_text())
    assert read_sidecar(plan) == sidecar
    sidecar_path(plan).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtefactError, match="it is no text"):
        read_sidecar(plan)
    sidecar_path(plan).unlink()
    sidecar_path(plan).mkdir()
    with pytest.raises(ArtefactError, match="cannot read"):
        read_sidecar(plan)


def test_names_of_plans_spell_what_tells_them_apart(identity: Callable) -> None:
    artefact = identity(form="routed")
    assert plan_stem(artefact, RTX) == "pp-atd-light_x2_fp32_rtx1.7.1"
    assert plan_stem(artefact, BOUND) == "pp-atd-light_x2_fp32_trt11.4.0_geforce-rtx-4090"
    odd = replace(BOUND, gpu_name="NVIDIA H200 (MIG 1g/18gb)")
    assert plan_stem(artefact, odd) == "pp-atd-light_x2_fp32_trt11.4.0_h200-mig-1g-18gb"


@pytest.mark.parametrize(
    ("size", "tokens", "fits"),
    [
        ((64, 64), None, True),
        ((368, 640), 235520, True),
        ((368, 640), 0, True),
        ((48, 64), None, False),
        ((64, 656), None, False),
        ((64, 64), 235521, False),
    ],
)
def test_a_range_holds_what_lies_in_it(
    size: tuple[int, int], tokens: int | None, fits: bool
) -> None:
    assert RANGES[0].holds(size, tokens) == fits
    assert ShapeRange((64, 64), (64, 64), (368, 640)).holds((64, 64), 10**9)


def test_hashes_are_those_of_sha256sum() -> None:
    assert sha256(b"plan") == hashlib.sha256(b"plan").hexdigest()
