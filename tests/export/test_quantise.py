"""INT8: what is in the graph, that it runs on integers, that it does what it says, and a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from ppsr.export.engine import build_plan
from ppsr.export.graph_backend import GraphBackend
from ppsr.export.linear import Linear, list_layers_of
from ppsr.export.quantise import quantise
from ppsr.models.errors import PrecisionError
from ppsr.runtime.artefact import OUTPUT
from ppsr.runtime.feed import feed_for
from ppsr.runtime.metrics import psnr
from ppsr.runtime.sidecar import ShapeRange

Amax = dict[str, float]
INTEGER = ("QLinearConv", "MatMulIntegerToFloat")


@pytest.fixture(scope="module")
def layers(body: Callable) -> dict[str, Linear]:
    return {layer.name: layer for layer in list_layers_of(body())}


@pytest.fixture(scope="module")
def int8(body: Callable, layers: dict[str, Linear], amax: Amax) -> onnx.ModelProto:
    """The tiny network, all its layers in INT8."""
    return quantise(body(), layers, amax)


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def optimised(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What onnxruntime really runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    written = onnx.load(options.optimized_model_filepath)
    return Counter(node.op_type for node in written.graph.node)


def test_the_graph_is_sound(int8: onnx.ModelProto, body: Callable) -> None:
    onnx.checker.check_model(int8, full_check=True)
    names = [node.name for node in int8.graph.node]
    assert len(set(names)) == len(names)
    assert int8.graph.input == body().graph.input
    assert int8.graph.output == body().graph.output


def test_every_layer_has_its_pairs(int8: onnx.ModelProto, layers: dict[str, Linear]) -> None:
    values = constants(int8)
    made = {name: node for node in int8.graph.node for name in node.output}
    for layer in layers.values():
        end = made[layer.output]
        if layer.kind == "conv":
            assert end.op_type == "DequantizeLinear"
            assert made[end.input[0]].op_type == "QuantizeLinear"
            end = made[made[end.input[0]].input[0]]
        elif end.op_type == "Add":
            end = made[end.input[0]]
        assert end.op_type == ("Conv" if layer.kind == "conv" else "MatMul")
        activation, weight = (made[name] for name in end.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        assert made[activation.input[0]].input[0] == layer.input
        assert values[weight.input[0]].dtype == np.int8
        assert values[weight.input[1]].size > 1, "weights have a scale for each channel"
    zeros = {
        name
        for node in int8.graph.node
        if "quantize" in node.op_type.lower()
        for name in node.input[2:]
    }
    assert all(values[name].dtype == np.int8 and not values[name].any() for name in zeros)
    assert all(array.dtype != np.int32 or "int8" not in name for name, array in values.items())


def test_weights_are_rounded_to_the_nearest(
    int8: onnx.ModelProto, body: Callable, layers: dict[str, Linear]
) -> None:
    before, after = constants(body()), constants(int8)
    for name, layer in layers.items():
        integers, scale = (after[f"{name}/weight/{part}"] for part in ("int8", "scale"))
        weight = before[layer.weight]
        if layer.kind == "linear":
            weight = weight.T if "attn_aca.proj" in name else weight.reshape(weight.shape[-2:])
            steps = weight / scale
        else:
            steps = weight / scale.reshape(-1, 1, 1, 1)
        assert np.abs(steps - integers).max() <= 0.5001
        axis = tuple(range(1, weight.ndim)) if layer.kind == "conv" else 0
        channels = np.abs(weight).max(axis)
        assert (np.abs(integers.astype(int)).max(axis)[channels > 0] == 127).all()


def test_scales_are_the_ranges_over_127(int8: onnx.ModelProto, amax: Amax) -> None:
    values = constants(int8)
    for site, largest in amax.items():
        assert values[f"{site}/scale"] == pytest.approx(largest / 127, rel=1e-6)


def test_onnxruntime_runs_integer_kernels(
    int8: onnx.ModelProto, layers: dict[str, Linear], tmp_path: Path
) -> None:
    """All but the first convolution, whose output two nodes read."""
    ran = optimised(int8, tmp_path)
    linear = sum(layer.kind == "linear" for layer in layers.values())
    assert ran["MatMulIntegerToFloat"] == linear
    assert ran["QLinearConv"] == len(layers) - linear - 1
    assert ran["Conv"] == 1


def test_only_what_was_chosen_changes(
    body: Callable, layers: dict[str, Linear], amax: Amax, tmp_path: Path
) -> None:
    chosen = ["layers.0.1.wqkv", "layers.0.1.attn_aca.proj", "layers.0.conv"]
    model = quantise(body(), chosen, amax)
    scales = [name for name in constants(model) if name.endswith("weight/int8")]
    assert sorted(scales) == sorted(f"{name}/weight/int8" for name in chosen)
    ran = optimised(model, tmp_path)
    assert [ran[kind] for kind in INTEGER] == [1, 2]
    untouched = {node.name for node in model.graph.node} & {n.name for n in body().graph.node}
    assert len(untouched) == len(body().graph.node) - 1  # The Gemm is a MatMul and an Add.
    assert quantise(body(), [], {}).graph.node == body().graph.node


def test_the_source_stays_as_it_is(body: Callable, layers: dict[str, Linear], amax: Amax) -> None:
    before = body().SerializeToString()
    quantise(body(), layers, amax)
    assert body().SerializeToString() == before


def test_one_layer_does_what_the_integers_say(
    body: Callable, graph: Callable, layers: dict[str, Linear], amax: Amax, photo: Callable
) -> None:
    """Its output, worked out by hand from its input; optimised or not."""
    layer = layers["layers.0.1.wqkv"]
    model, values = quantise(body(), [layer.name], amax), constants(body())
    feed = feed_for(graph()[1], photo())
    scale = np.float32(amax[f"{layer.name}/input"] / 127)
    weight = values[layer.weight].reshape(48, 192)
    steps = np.abs(weight).max(0) / np.float32(127) + np.float32(1e-30)  # Channels may be padding.
    integers = np.rint(weight / steps)
    for optimise in (False, True):
        watch = [layer.input, layer.output]
        with GraphBackend(model, graph()[1], watch=watch, optimise=optimise, threads=1) as shown:
            got = shown.run(feed)
        x = np.rint(got[layer.input] / scale).clip(-128, 127)
        expected = (x @ integers) * (scale * steps)
        assert np.abs(got[layer.output] - expected).max() <= 2 * scale * np.abs(weight).max()
        assert psnr(got[layer.output].astype(float), expected.astype(float)) > 60


def test_a_photo_comes_out_alike_and_a_wrong_scale_is_seen(
    int8: onnx.ModelProto,
    body: Callable,
    graph: Callable,
    layers: dict[str, Linear],
    amax: Amax,
    photo: Callable,
) -> None:
    feed = feed_for(graph()[1], photo())

    def run(model: onnx.ModelProto) -> npt.NDArray[np.float64]:
        with GraphBackend(model, graph()[1], threads=1) as backend:
            return backend.run(feed)[OUTPUT].astype(np.float64)

    fp32, good = run(body()), run(int8)
    assert 25 < psnr(good, fp32) < 70, "this did not run in INT8"
    spoilt = amax | {"upsample.0/output": amax["upsample.0/output"] / 4}
    assert psnr(run(quantise(body(), layers, spoilt)), fp32) < psnr(good, fp32) - 6


def test_weights_that_are_zero_stay_zero(body: Callable, layers: dict[str, Linear]) -> None:
    layer = layers["layers.0.conv"]
    model = onnx.ModelProto()
    model.CopyFrom(body())
    for tensor in model.graph.initializer:
        if tensor.name == layer.weight:
            values = np.array(numpy_helper.to_array(tensor))
            values[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    ranges = {f"{layer.name}/input": 1.0, f"{layer.name}/output": 1.0}
    made = constants(quantise(model, [layer.name], ranges))
    assert (made[f"{layer.name}/weight/scale"] > 0).all()
    assert not made[f"{layer.name}/weight/int8"][3].any()


@pytest.mark.parametrize(
    ("chosen", "changes", "message"),
    [
        ("layers.9.conv", {}, r"expected names of layers, the network has no 'layers.9.conv'; it "),
        ("layers.0.conv", {"layers.0.conv/output": None}, "no range for layers.0.conv/output"),
        ("layers.0.1.wqkv", {"layers.0.1.wqkv/input": None}, "no range for layers.0.1.wqkv/input"),
        ("conv_first", {"conv_first/input": 0.0}, "a range above 0 for conv_first/input, got 0"),
        ("conv_first", {"conv_first/input": float("nan")}, "conv_first/input, got nan"),
        ("conv_first", {"conv_first/output": float("inf")}, "conv_first/output, got inf"),
    ],
)
def test_what_is_wrong_is_told(
    body: Callable, amax: Amax, chosen: str, changes: dict[str, Any], message: str
) -> None:
    ranges = {site: value for site, value in (amax | changes).items() if value is not None}
    with pytest.raises(PrecisionError, match=message):
        quantise(body(), [chosen], ranges)


@pytest.mark.rtx
def test_an_engine_takes_it_and_shows_int8(
    int8: onnx.ModelProto, layers: dict[str, Linear], amax: Amax
) -> None:
    pytest.importorskip("tensorrt_rtx")
    profile = ShapeRange((16, 16), (64, 64), (96, 96), (0, 2458, 96 * 96))
    built = build_plan(int8, [profile], "tensorrt-rtx")
    assert built.plan
    ints = {layer.name for layer in built.layers if layer.outputs == ("INT8",)}
    assert {f"{site}/QuantizeLinear" for site in amax} <= ints
    assert {f"{name}/weight/int8" for name in layers} <= ints
    kinds = {layer.name: layer.kind for layer in built.layers}
    assert all(kinds[f"{name}/weight/DequantizeLinear"] == "DEQUANTIZE" for name in layers)
