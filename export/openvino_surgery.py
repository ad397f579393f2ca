"""Graph surgery for OpenVINO on the CPU; passes as in ``surgery``."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .surgery import Pass

CATEGORY = "/category"
"""How the tensor ends that holds the category of every token (``verify`` reads it)."""


def largest_by_maxima(graph: gs.Graph) -> int:
    """ArgMax(x) -> K - max((x == max(x)) * (K, K - 1 ... 1)): the first of the largest, as ArgMax.

    OpenVINO has ArgMax as a TopK: ``benchmarks/passes.py`` has what this saves.
    """
    made: list[gs.Node] = []
    last = gs.Constant("category/axis", np.array([-1]))
    constants: dict[int, tuple[gs.Constant, gs.Constant]] = {}
    changed = 0
    for node in graph.nodes:
        if node.op != "ArgMax" or node.inputs[0].shape is None:
            continue
        scores, axis, keep = (
            node.inputs[0],
            node.attrs.get("axis", 0),
            node.attrs.get("keepdims", 1),
        )
        entries = scores.shape[axis]
        if not isinstance(entries, int) or axis not in (-1, len(scores.shape) - 1):
            continue
        if node.attrs.get("select_last_index", 0) or node.outputs[0] in graph.outputs:
            continue
        scope = node.name.rpartition("/")[0]

        def add(op: str, *inputs: gs.Tensor, scope: str = scope, **attrs: object) -> gs.Variable:
            output = gs.Variable(f"{scope}/category_{len(made)}")
            made.append(gs.Node(op, output.name, attrs, list(inputs), [output]))
            return output

        if entries not in constants:
            ranks = np.arange(entries, 0, -1).astype(np.float32)
            constants[entries] = (
                gs.Constant(f"category/ranks{entries}", ranks),
                gs.Constant(f"category/count{entries}", ranks[:1]),
            )
        ranks, count = constants[entries]
        is_most = add("Equal", scores, add("ReduceMax", scores, last, keepdims=1))
        weighed = add("Mul", add("Cast", is_most, to=onnx.TensorProto.FLOAT), ranks)
        first = add("Sub", count, add("ReduceMax", weighed, last, keepdims=keep))
        node.op, node.inputs, node.attrs = "Cast", [first], {"to": onnx.TensorProto.INT64}
        node.outputs[0].name = f"{scope}{CATEGORY}"
        changed += 1
    graph.nodes.extend(made)
    return changed


OPENVINO_PASSES: tuple[Pass, ...] = (largest_by_maxima,)
