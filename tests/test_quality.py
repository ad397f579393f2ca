"""docs/quality.md says what the committed figures say, and these are of the shipped weights."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")

from ppsr.models.config import SCALES
from ppsr.models.factory import build

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/quality"


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return {name: importlib.import_module(name) for name in ("quality", "quality_page", "ship")}
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def results(scripts: dict[str, Any]) -> dict[tuple[int, str], dict[str, Any]]:
    found: dict[tuple[int, str], dict[str, Any]] = scripts["quality"].read(RESULTS)
    return found


def test_every_scale_and_set_is_measured(results: dict) -> None:
    assert list(results) == [(s, name) for s in SCALES for name in ("Set5", "Set14", "B100")]


@pytest.mark.parametrize("scale", SCALES)
def test_the_figures_are_of_the_shipped_weights(results: dict, scripts: dict, scale: int) -> None:
    digest = build("pp-atd-light", scale).weights_sha256
    for (of, _), result in results.items():
        used = {method["weights_sha256"] for method in result["methods"]}
        assert of != scale or used == {digest, None}
    last = [r for r in scripts["ship"].records() if r["recipe"]["scale"] == scale][-1]
    assert last["weights_sha256"] == digest


def test_the_page_is_made_from_them(results: dict, scripts: dict, tmp_path: Path) -> None:
    scripts["quality_page"].write(tmp_path / "quality.md", results)
    assert (tmp_path / "quality.md").read_text() == (ROOT / "docs/quality.md").read_text()


def test_the_mask_costs_little(results: dict) -> None:
    """At most 0.05 dB on every set: what the paper claims of its own weights."""
    for result in results.values():
        scores = result["sets"][0]["mean"]["scores"]
        assert scores["no mask"]["psnr_y"] - scores["mask"]["psnr_y"] <= 0.05


def test_no_result_names_a_place_of_its_machine() -> None:
    for path in (ROOT / "benchmarks/results").rglob("*.json"):
        text = path.read_text()
        json.loads(text)
        assert '"/' not in text, path
