"""INT8 and recipes through the pipeline and the command: published, verified, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import pyvips

from ppsr.calibration.photo import sample_photo
from ppsr.calibration.ranges import Ranges, read_ranges, write_ranges
from ppsr.calibration.recipe import Recipe, write_recipe
from ppsr.export import lowering
from ppsr.export.graph_backend import graph_sha256
from ppsr.export.linear import list_layers_of, sites_of
from ppsr.export.options import ExportOptions
from ppsr.export.pipeline import export_model
from ppsr.export.precision import holds_fp16
from ppsr.models.errors import ParityError, UsageError
from ppsr.models.registry import MODELS
from ppsr.runtime import Upscaler
from ppsr.runtime.sidecar import sidecar_path

Amax = dict[str, float]


@pytest.fixture
def ranges(body: Callable, amax: Amax, tmp_path: Path) -> Path:
    """A file of ranges of the tiny network."""
    path = tmp_path / "ranges.json"
    write_ranges(path, Ranges(graph_sha256(body()), "minmax", 2, amax))
    return path


@pytest.fixture
def recipe(network: Callable, amax: Amax, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    layers: Any = {"layers.0.*.wqkv": "int8", "layers.0.*.attn_win.proj": "fp16"}
    write_recipe(path, Recipe("pp-atd-light", 2, network().weights_sha256, layers, amax))
    return path


def integers(path: Path) -> set[str]:
    """The layers with INT8 weights of a published file."""
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    return {name.removesuffix("/weight/int8") for name in names if name.endswith("/weight/int8")}


def test_int8_is_published_in_both_forms(
    tiny_export: None, body: Callable, ranges: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    made = export_model(ExportOptions(int8=True, calibration=ranges, output=folder, target="onnx"))
    assert made.ranges is None
    assert [path.name for path in made.paths] == [
        *("pp-atd-light_x2_int8.onnx", "pp-atd-light_x2_int8_routed.onnx"),
    ]
    inner = {layer.name for layer in list_layers_of(body())} - set(
        MODELS["pp-atd-light"].kept_from_int8
    )
    rgb = sample_photo()[100:137, 50:90]
    outputs = []
    for path in made.paths:
        assert integers(path) == inner
        sidecar = json.loads(sidecar_path(path).read_text())
        assert sidecar["precision"] == "int8"
        assert all(35 <= row["psnr"] < 70 for row in sidecar["parity"])
        with Upscaler.open(path, device="cpu") as upscaler:
            assert upscaler.artefact.precision == "int8"
            outputs.append(upscaler(rgb))
    assert outputs[0].shape == (74, 80, 3)
    assert (outputs[0] == outputs[1]).all()


def test_a_wrong_scale_fails_and_publishes_nothing(
    tiny_export: None, body: Callable, amax: Amax, tmp_path: Path
) -> None:
    wrong = amax | {"layers.0.conv/output": amax["layers.0.conv/output"] / 16}
    path, folder = tmp_path / "wrong.json", tmp_path / "out"
    write_ranges(path, Ranges(graph_sha256(body()), "minmax", 2, wrong))
    options = ExportOptions(int8=True, calibration=path, output=folder, target="onnx")
    with pytest.raises(ParityError, match=r"outputs agree to [\d.]+ dB, needed are 35; nothing"):
        export_model(options)
    assert not folder.exists()


def test_ranges_are_taken_and_kept(
    tiny_export: None,
    command: Callable,
    body: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From pictures of several sizes; what is written serves the next export."""
    monkeypatch.setattr(lowering, "CROPS", 3)
    data = tmp_path / "data"
    data.mkdir()
    for number, (height, width) in enumerate(((120, 141), (90, 200), (20, 300))):
        image = pyvips.Image.new_from_array(sample_photo()[:height, 30 : 30 + width])
        image.write_to_file(data / f"{number}.png")
    common = ("--form", "routed", "--target", "onnx", "--int8")
    result = command(*common, "--data", data, "-o", tmp_path / "a")
    assert result.exit_code == 0, result.output
    path = tmp_path / "a" / "pp-atd-light_x2_int8.ranges.json"
    assert "take ranges from 3 crops" in result.output
    assert f"{path.name}: the ranges, for --calibration" in result.output
    found = read_ranges(path)
    assert (found.estimator, found.images) == ("mse", 3)
    assert set(found.amax) == set(sites_of(list_layers_of(body())))
    again = command(*common, "--calibration", path, "-o", tmp_path / "b")
    assert again.exit_code == 0, again.output
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == [
        *("pp-atd-light_routing.onnx", "pp-atd-light_routing.onnx.json"),
        *("pp-atd-light_x2_int8_routed.onnx", "pp-atd-light_x2_int8_routed.onnx.json"),
    ]
    name = "pp-atd-light_x2_int8_routed.onnx"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_recipe_is_applied(
    tiny_export: None, command: Callable, recipe: Path, tmp_path: Path
) -> None:
    result = command("--recipe", recipe, "--form", "routed", "--target", "onnx", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    path = tmp_path / "pp-atd-light_x2_mixed_routed.onnx"
    assert integers(path) == {"layers.0.0.wqkv", "layers.0.1.wqkv"}
    assert holds_fp16(onnx.load(path))
    assert json.loads(sidecar_path(path).read_text())["precision"] == "mixed"
    assert "largest FP16 value" in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph_sha256": "0" * 64}, "the ranges are of another model, scale or weights"),
        ({"amax": {"conv_first/input": 1.0}}, "there is no range for layers.0.0.attn_atd.wq/input"),
    ],
)
def test_ranges_of_another_network_are_refused(
    tiny_export: None,
    command: Callable,
    ranges: Path,
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    ranges.write_text(json.dumps(json.loads(ranges.read_text()) | change))
    result = command("--int8", "--calibration", ranges, "--target", "onnx", "-o", tmp_path / "out")
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_another_network_is_refused(
    tiny_export: None, command: Callable, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(recipe.read_text().replace("layers.0.*.wqkv", "layers.7.*.wqkv"))
    result = command("--recipe", recipe, "--target", "onnx", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the recipe names layers.7.*.wqkv, which is no layer of pp-atd-light" in result.stderr


def test_files_are_read_before_anything_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppsr.export.pipeline.build", lambda *_, **__: pytest.fail("too late"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("{")
    asked: list[dict[str, Any]] = [
        {"int8": True, "calibration": tmp_path / "text"},
        {"int8": True, "calibration": tmp_path / "missing"},
        {"int8": True, "data": tmp_path / "empty"},
        {"recipe": tmp_path / "text"},
    ]
    for one in asked:
        with pytest.raises(UsageError, match=r"text|missing|empty"):
            export_model(ExportOptions(target="onnx", output=tmp_path, **one))
