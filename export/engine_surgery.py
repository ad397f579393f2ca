"""Graph surgery for engines: what costs TensorRT a layer and onnxruntime nothing.

Its parser writes a cast before every 64-bit index and a shuffle before every constant of a lower
rank. The passes are those of ``surgery``: a graph edited in place, the number of rewrites returned.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .surgery import Pass

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Equal", "Less", "Max", "MatMul", "Where"})


def int32_indices(graph: gs.Graph) -> int:
    """Gather(x, i) -> Gather(x, Cast(i)), cast once for all that use it; constants for good."""
    narrow: dict[str, gs.Tensor] = {}
    made: list[gs.Node] = []
    changed = 0
    for node in graph.nodes:
        if node.op != "Gather" or node.inputs[1].dtype != np.int64:
            continue
        index = node.inputs[1]
        if index.name not in narrow:
            name = f"{index.name}_int32"
            if isinstance(index, gs.Constant):
                narrow[index.name] = gs.Constant(name, index.values.astype(np.int32))
            else:
                narrow[index.name] = gs.Variable(name, np.int32, index.shape)
                cast = {"to": onnx.TensorProto.INT32}
                scope = index.inputs[0].name.rpartition("/")[0] if index.inputs else ""
                outputs = [narrow[index.name]]
                made.append(gs.Node("Cast", f"{scope}/Cast", cast, [index], outputs))
        node.inputs[1] = narrow[index.name]
        changed += 1
    graph.nodes.extend(made)
    return changed


def full_rank_constants(graph: gs.Graph) -> int:
    """Add(x, c) -> Add(x, Reshape(c)), with 1s before the shape of c until it has the rank of x."""
    ranked: dict[tuple[str, int], gs.Constant] = {}
    changed = 0
    for node in graph.nodes:
        if node.op not in _BROADCASTING or any(tensor.shape is None for tensor in node.inputs):
            continue
        rank = max(len(tensor.shape) for tensor in node.inputs)
        for place, tensor in enumerate(node.inputs):
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


ENGINE_PASSES: tuple[Pass, ...] = (int32_indices, full_rank_constants)
