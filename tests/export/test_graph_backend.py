"""A graph in memory: what it returns, what it shows, and that its identity is of what it does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from ppsr.export.compose import write_metadata
from ppsr.export.graph_backend import GraphBackend, category_tensors, graph_sha256
from ppsr.export.linear import list_layers_of, sites_of
from ppsr.export.trace import trace_network
from ppsr.export.tuning import RECIPES
from ppsr.models.errors import PpsrError
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT
from ppsr.runtime.feed import feed_for
from ppsr.runtime.upscaler import Upscaler


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


@pytest.mark.parametrize("form", ["routed", "self-contained"])
@pytest.mark.parametrize("optimise", [False, True])
def test_it_is_a_backend(
    graph: Callable, publish: Callable, photo: Callable, form: str, optimise: bool
) -> None:
    rgb = photo()
    with Upscaler.open(publish("tiny", form), device="cpu", threads=1) as upscaler:
        expected = upscaler(rgb)
    outputs = []
    for watch in ((), list(category_tensors(graph("tiny", form)[0]).values())):
        backend = GraphBackend(*graph("tiny", form), watch=watch, optimise=optimise, threads=1)
        with Upscaler(backend) as upscaler:
            outputs.append(upscaler(rgb))
    assert outputs[0].shape == (74, 100, 3)
    assert (outputs[0] == outputs[1]).all()
    assert np.abs(outputs[0].astype(int) - expected).max() <= 1


def test_what_is_watched_comes_by_name(graph: Callable, photo: Callable) -> None:
    model, artefact = graph()
    sites = sites_of(list_layers_of(model))
    categories = category_tensors(model).values()
    assert len(categories) == 2
    watch = [INPUT, *sites.values(), *categories, OUTPUT]
    with GraphBackend(model, artefact, watch=watch, threads=1) as backend:
        feed = feed_for(artefact, photo())
        got = backend.run(feed)
    assert set(got) == set(watch)
    assert (got[INPUT] == feed[INPUT]).all()
    tokens = feed[INPUT][0, 0].size
    for name in categories:
        assert got[name].dtype == np.int64
        assert got[name].size == tokens
    assert got[sites["layers.0.1.attn_aca.proj/input"]].shape == (len(feed[ACTIVE]), 64)
    for name in sites.values():
        assert got[name].dtype == np.float32
        assert np.isfinite(got[name]).all()


def test_fp16_is_rounded(graph: Callable, photo: Callable) -> None:
    model, artefact = graph(fp16=True)
    name = next(node.output[0] for node in model.graph.node if node.name.endswith("wqkv/Add"))
    with GraphBackend(model, artefact, watch=[name], threads=1) as backend:
        values = backend.run(feed_for(artefact, photo()))[name]
    assert values.dtype == np.float32
    assert (values.astype(np.float16) == values).all()


def test_what_cannot_be_shown_or_run(graph: Callable) -> None:
    with pytest.raises(PpsrError, match="expected a tensor to watch, the graph has no 'nothing'"):
        GraphBackend(*graph(), watch=["nothing"])
    backend = GraphBackend(*graph(), threads=1)
    with pytest.raises(PpsrError, match="the graph failed: "):
        backend.run({INPUT: np.zeros((1, 3, 16, 17), np.float32), ACTIVE: np.arange(9)})
    backend.close()
    backend.close()
    with pytest.raises(PpsrError, match="closed"):
        backend.run({})


def test_the_identity_is_that_of_two_exports(
    network: Callable, body: Callable, graph: Callable
) -> None:
    again = trace_network(RECIPES["any"].fold(network()), 20)
    for _, stage in RECIPES["any"].stages:
        again = stage(again)
    known = graph_sha256(body())
    assert graph_sha256(again) == known
    assert graph_sha256(write_metadata(again, graph()[1])) == known


def change_a_weight(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[5]
    values: npt.NDArray[np.float32] = np.array(numpy_helper.to_array(tensor))
    values.reshape(-1)[0] = np.nextafter(values.reshape(-1)[0], values.dtype.type(9))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def change_a_node(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.attribute[0].i += 1


@pytest.mark.parametrize("change", [change_a_weight, change_a_node])
def test_the_identity_changes_with_what_is_computed(body: Callable, change: Callable) -> None:
    changed = copy_of(body())
    change(changed)
    assert graph_sha256(changed) != graph_sha256(body())
