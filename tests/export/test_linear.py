"""The layers of a graph: found all, named by who owns their weights, grouped by kind and block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase

from onnx import numpy_helper

from ppsr.export.linear import groups, list_layers_of, sites_of

OF_A_LAYER = {
    **{"wqkv": 48 * 192, "attn_atd.wq": 48 * 16, "attn_atd.wk": 48 * 16, "attn_atd.wv": 48 * 48},
    **{"attn_win.proj": 64 * 48, "attn_aca.proj": 64 * 48, "convffn.fc1": 48 * 48},
    **{"convffn.dwconv.depthwise_conv.0": 48 * 49, "convffn.fc2": 48 * 48},
}
"""Multiply-adds of the layers of one layer of PP-ATD-light."""
OUTSIDE = {
    **{"conv_first": 3 * 48 * 9, "conv_after_body": 48 * 48 * 9, "upsample.0": 48 * 12 * 9},
    **{f"layers.{block}.conv": 48 * 48 * 9 for block in range(4)},
}


def test_all_layers_are_found(body: Callable) -> None:
    """The first layer of a block has constant keys and values: their layers are folded away."""
    expected = {
        f"layers.{block}.{layer}.{name}": number
        for block in range(4)
        for layer in range(6)
        for name, number in OF_A_LAYER.items()
        if layer or name not in ("attn_atd.wk", "attn_atd.wv")
    }
    layers = list_layers_of(body("pp-atd-light"))
    assert {layer.name: layer.multiply_adds for layer in layers} == expected | OUTSIDE
    assert Counter(layer.kind for layer in layers) == {"linear": 136, "conv": 79}
    assert all(layer.weight_bytes == 4 * layer.multiply_adds for layer in layers)


def test_tensors_and_nodes_are_those_of_the_graph(body: Callable) -> None:
    model = body()
    nodes = {node.name: node for node in model.graph.node}
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for layer in list_layers_of(model):
        node = nodes[layer.node]
        assert (layer.input, layer.weight) == tuple(node.input[:2])
        assert [layer.output] == node.output
        assert weights[layer.weight].size == layer.multiply_adds
        assert layer.node in layer.nodes <= set(nodes)
        assert Counter(nodes[name].op_type for name in layer.nodes - {layer.node}) in (
            *(Counter(), Counter(Add=1)),
        )


def test_what_owns_its_node_takes_the_bias_along(body: Callable) -> None:
    layers = {layer.name: layer for layer in list_layers_of(body())}
    scope = "layers.0.residual_group.layers.1"
    assert layers["layers.0.1.wqkv"].nodes == {f"{scope}.wqkv/MatMul", f"{scope}.wqkv/Add"}
    assert layers["layers.0.1.convffn.fc1"].nodes == {f"{scope}.convffn/Conv"}
    assert layers["layers.0.1.convffn.fc2"].nodes == {f"{scope}.convffn/Conv_1"}
    rows = {name.removeprefix("layers.0.1."): layer.rows for name, layer in layers.items()}
    assert {name for name, row in rows.items() if row == "active tokens"} == {
        *("layers.0.0.attn_aca.proj", "attn_aca.proj"),
    }
    assert {name for name, row in rows.items() if row == "dictionary"} == {
        *("attn_atd.wk", "attn_atd.wv"),
    }


def test_groups_are_globs(body: Callable) -> None:
    layers = list_layers_of(body("pp-atd-light"))
    made = groups(layers)
    assert {layer.name for group in made.values() for layer in group} == {
        layer.name for layer in layers
    }
    assert len(made) == 4 * 9 + len(OUTSIDE)
    assert [layer.name for layer in made["layers.2.*.attn_win.proj"]] == [
        f"layers.2.{i}.attn_win.proj" for i in range(6)
    ]
    for glob, group in made.items():
        matching = [layer for layer in layers if fnmatchcase(layer.name, glob)]
        assert matching == list(group), glob


def test_sites(body: Callable) -> None:
    layers = list_layers_of(body())
    sites = sites_of(layers)
    assert set(sites) == {f"{layer.name}/input" for layer in layers} | {
        f"{layer.name}/output" for layer in layers if layer.kind == "conv"
    }
    made = {name for node in body().graph.node for name in node.output}
    assert set(sites.values()) <= made
