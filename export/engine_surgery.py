"""Graph surgery for engines: what costs TensorRT a layer and onnxruntime nothing.

Its parser writes a cast before every 64-bit index and a shuffle before every constant of a lower
rank. The passes are those of ``surgery``: a graph edited in place, the number of rewrites returned.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .surgery import Pass, bypass

_BROADCASTING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Equal", "Less", "Max", "MatMul", "LayerNormalization"}
)
_INDEX = {"Gather": 1, "GatherElements": 1, "ScatterElements": 1}
"""Which input is the index. ScatterND knows 64-bit ones only."""


def int32_indices(graph: gs.Graph) -> int:
    """Gather(x, i) -> Gather(x, Cast(i, int32)), cast once for all uses.

    A constant is cast for good, and what was cast from int32 is taken as it was before.
    """
    narrow: dict[str, gs.Tensor] = {}
    made: list[gs.Node] = []
    changed = 0
    for node, place in _indexed(graph):
        index = node.inputs[place]
        if index.dtype != np.int64:
            continue
        if index.name not in narrow:
            name = f"{index.name}_int32"
            origin = index.inputs[0] if index.inputs else None
            if isinstance(index, gs.Constant):
                narrow[index.name] = gs.Constant(name, index.values.astype(np.int32))
            elif origin and origin.op == "Cast" and origin.inputs[0].dtype == np.int32:
                narrow[index.name] = origin.inputs[0]
            else:
                narrow[index.name] = gs.Variable(name, np.int32, index.shape)
                cast = {"to": onnx.TensorProto.INT32}
                scope = (origin or node).name.rpartition("/")[0]
                made.append(gs.Node("Cast", f"{scope}/{name}", cast, [index], [narrow[index.name]]))
        node.inputs[place] = narrow[index.name]
        changed += 1
    graph.nodes.extend(made)
    return changed


def drop_flat_reshapes(graph: gs.Graph) -> int:
    """f(Reshape(x, [-1])) -> f(x), where x has one axis already."""
    dropped = 0
    for node in graph.nodes:
        if node.op != "Reshape" or not isinstance(node.inputs[1], gs.Constant):
            continue
        source, shape = node.inputs[0], node.inputs[1].values.tolist()
        if shape == [-1] and source.shape is not None and len(source.shape) == 1:
            dropped += bypass(node, source)
    return dropped


def full_rank_constants(graph: gs.Graph) -> int:
    """Add(x, c) -> Add(x, Reshape(c)), with 1s before the shape of c until it has the rank of x."""
    ranked: dict[tuple[str, int], gs.Constant] = {}
    changed = 0
    for node in graph.nodes:
        places = _broadcast_places(node)
        if any(node.inputs[place].shape is None for place in places):
            continue
        rank = max((len(node.inputs[place].shape) for place in places), default=0)
        for place in places:
            tensor = node.inputs[place]
            missing = rank - len(tensor.shape)
            is_vector = node.op == "MatMul" and len(tensor.shape) < 2
            if not isinstance(tensor, gs.Constant) or not missing or is_vector:
                continue
            key = (tensor.name, rank)
            if key not in ranked:
                values = tensor.values.reshape((1,) * missing + tensor.values.shape)
                ranked[key] = gs.Constant(f"{tensor.name}_rank{rank}", values)
            node.inputs[place] = ranked[key]
            changed += 1
    return changed


ENGINE_PASSES: tuple[Pass, ...] = (
    drop_flat_reshapes,
    int32_indices,
    full_rank_constants,
)


def _indexed(graph: gs.Graph) -> Iterator[tuple[gs.Node, int]]:
    return ((node, _INDEX[node.op]) for node in graph.nodes if node.op in _INDEX)


def _broadcast_places(node: gs.Node) -> range:
    """Which inputs of a node broadcast against each other: of Gemm the matrix A and the addend."""
    if node.op == "Gemm" and len(node.inputs) == 3:
        return range(0, 3, 2)
    return range(len(node.inputs) if node.op in _BROADCASTING else 0)
