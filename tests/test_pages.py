"""docs/precision.md and docs/tiling.md say what the figures say, and these the shipped weights."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx_graphsurgeon")

from ppsr.models.factory import build
from ppsr.models.registry import MODELS
from ppsr.runtime.tiles import OVERLAP

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=["precision", "tiling"])
def script(request: pytest.FixtureRequest) -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module(request.param)
    finally:
        sys.path.pop(0)


def test_the_page_is_made_of_the_figures(script: ModuleType) -> None:
    content = json.loads(script.TARGET.read_text())
    assert script.PAGE.read_text() == script.spell(content)


def test_the_figures_are_of_the_shipped_weights(script: ModuleType) -> None:
    content = json.loads(script.TARGET.read_text())
    assert content["weights_sha256"] == build("pp-atd-light", 2).weights_sha256


def test_the_page_of_speed_is_made_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("speed_page")
    figures, curves = page.load()
    assert page.PAGE.read_text() == page.spell(figures, curves)
    weights = build("pp-atd-light", 2).weights_sha256
    models = [model for of in curves.values() for model in (*of["models"], of["against"])]
    assert {model["weights_sha256"] for model in models if isinstance(model, dict)} == {weights}


def test_the_page_of_int8_is_made_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("int8_page")
    content = json.loads(page.TARGET.read_text())
    assert page.PAGE.read_text() == page.spell(content)
    assert content["measure"]["weights_sha256"] == build("pp-atd-light", 2).weights_sha256


def test_the_comparison_is_made_of_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs alike but for the network, of 20 minutes or more."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("comparison_page")
    content = json.loads(page.SOURCE.read_text())
    assert page.PAGE.read_text() == page.spell(content)
    runs = [row["training"] for name, row in content["quality"].items() if name != "bicubic"]
    assert len(runs) == len(page.PAPER) == 4
    assert min(run["minutes"] for run in runs) >= 20
    alike = [{**run["options"], "model": None, "ratio": None} for run in runs]
    assert alike == [alike[0]] * 4
    assert {run["steps"] for run in runs} == {alike[0]["steps"]}


def test_the_recipe_keeps_its_budget_on_b100() -> None:
    """0.05 dB; all in INT8 without a look at the layers loses far more."""
    content = json.loads((ROOT / "benchmarks/results/int8.json").read_text())
    truth = {
        name: row["sets"]["B100"]["psnr_y"] for name, row in content["measure"]["rows"].items()
    }
    assert truth["fp32"] - truth["mixed"] <= content["search"]["budget"] == 0.05
    assert truth["fp32"] - truth["int8, naive"] > 0.2


def test_int8_without_a_recipe_leaves_out_what_the_recipe_does() -> None:
    content = json.loads((ROOT / "benchmarks/results/int8.json").read_text())
    left = {one["group"] for one in content["search"]["groups"] if not one["chosen"]}
    assert left == set(MODELS["pp-atd-light"].kept_from_int8)


def test_the_default_overlap_was_measured() -> None:
    rows = json.loads((ROOT / "benchmarks/results/tiling.json").read_text())["rows"]
    assert OVERLAP in {row["overlap"] for row in rows}


def test_fp16_costs_next_to_nothing() -> None:
    """Against ground truth, where FP16 and FP32 put other tokens together."""
    sets = json.loads((ROOT / "benchmarks/results/precision.json").read_text())["sets"]
    assert set(sets) == {"Set5", "B100"}
    for name, of in sets.items():
        assert of["fp32"] - of["fp16"] <= 0.01, name
