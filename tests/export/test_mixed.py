"""Mixed precision: each layer's nodes are in its own, on either default, and it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import onnx
import pytest

from ppsr.export.graph_backend import GraphBackend
from ppsr.export.islands import ISLANDS
from ppsr.export.linear import list_layers_of
from ppsr.export.mixed import mixed
from ppsr.export.precision import holds_fp16, to_fp16
from ppsr.models.errors import PrecisionError
from ppsr.runtime.artefact import OUTPUT
from ppsr.runtime.feed import feed_for
from ppsr.runtime.metrics import psnr

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
CHOSEN: dict[str, Any] = {
    **{"layers.0.0.wqkv": "int8", "layers.0.1.attn_win.proj": "int8"},
    **{"layers.0.1.wqkv": "fp16", "layers.0.0.attn_aca.proj": "fp16"},
    **{"layers.0.0.convffn.fc1": "fp32", "layers.0.conv": "int8", "upsample.0": "fp16"},
}


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of what each node returns."""
    onnx.checker.check_model(model, full_check=True)
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in (*typed.graph.value_info, *typed.graph.output)
    }
    return {node.name: found[node.output[0]] for node in model.graph.node}


@pytest.mark.parametrize("default", ["fp32", "fp16"])
def test_each_layer_is_in_its_own(body: Callable, amax: dict[str, float], default: Any) -> None:
    model = mixed(body(), CHOSEN, amax, default)
    found = types(model)
    for layer in list_layers_of(body()):
        precision = CHOSEN.get(layer.name, default)
        weights = f"{layer.name}/weight/DequantizeLinear"
        assert (weights in found) == (precision == "int8")
        island = any(re.search(island.pattern, layer.node) for island in ISLANDS)
        half = precision == "fp16" and not (island and default == "fp16")
        for node in layer.nodes & set(found):
            assert found[node] == (HALF if half else FLOAT), node
    integers = {name for name, kind in found.items() if kind == onnx.TensorProto.INT8}
    assert integers == {
        f"{site}/QuantizeLinear" for site in amax if CHOSEN.get(site.rpartition("/")[0]) == "int8"
    }
    softmax = [kind for name, kind in found.items() if "attn_win/Softmax" in name]
    assert set(softmax) == {HALF if default == "fp16" else FLOAT}


@pytest.mark.parametrize("default", ["fp32", "fp16"])
def test_it_runs(
    body: Callable, graph: Callable, amax: dict[str, float], photo: Callable, default: Any
) -> None:
    artefact = graph()[1]
    feed = feed_for(artefact, photo())
    outputs = []
    for model in (body(), mixed(body(), CHOSEN, amax, default)):
        with GraphBackend(model, artefact, threads=1) as backend:
            outputs.append(backend.run(feed)[OUTPUT].astype(float))
    assert 25 < psnr(*outputs) < 80


def test_nothing_chosen_changes_nothing(body: Callable) -> None:
    assert mixed(body(), {}, {}).graph.node == body().graph.node
    assert not holds_fp16(mixed(body(), {}, {}))
    assert types(mixed(body(), {}, {}, "fp16")) == types(to_fp16(body()))
    assert holds_fp16(mixed(body(), {"conv_first": "fp16"}, {}))


def test_a_missing_range_is_told(body: Callable) -> None:
    with pytest.raises(PrecisionError, match="no range for conv_first/input"):
        mixed(body(), {"conv_first": "int8"}, {})
