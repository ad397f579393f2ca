"""Graph surgery with onnx-graphsurgeon: small passes, each with one rewrite rule.

A pass edits the graph in place and returns how many rewrites it made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .naming import number_nodes

Pass = Callable[[gs.Graph], int]


def run_passes(model: onnx.ModelProto, passes: Sequence[Pass]) -> onnx.ModelProto:
    """Run ``passes`` in order, again and again until none finds anything; tidy up."""
    operated, found = model, 1
    while found:
        graph = gs.import_onnx(onnx.shape_inference.infer_shapes(operated, data_prop=True))
        found = 0
        for step in passes:
            while made := step(graph):
                found += made
            graph.cleanup(remove_unused_graph_inputs=False).toposort()
        operated = gs.export_onnx(graph, do_type_check=False)
        operated.ir_version = model.ir_version
        operated.graph.ClearField("value_info")
        number_nodes(operated)
    return operated


def select_slices(graph: gs.Graph) -> int:
    """Squeeze(Slice(x, i, i + 1, axis), axis) -> Gather(x, i, axis): q, k, v out of their stack."""
    indices: dict[int, gs.Constant] = {}
    selected = 0
    for node in graph.nodes:
        if node.op != "Squeeze" or len(node.inputs) != 2 or not _made_by(node.inputs[0], "Slice"):
            continue
        source, *rest = node.inputs[0].inputs[0].inputs
        if len(rest) < 3:
            continue
        start, stop, axis = (_scalar(tensor) for tensor in rest[:3])
        step = _scalar(rest[3]) if len(rest) > 3 else 1
        if start is None or stop is None or axis is None or axis != _scalar(node.inputs[1]):
            continue
        if start < 0 or stop != start + 1 or step != 1:
            continue
        index = gs.Constant(f"select/{start}", np.array(start, dtype=np.int64))
        node.op, node.attrs = "Gather", {"axis": axis}
        node.inputs = [source, indices.setdefault(start, index)]
        selected += 1
    return selected


def drop_identity_transposes(graph: gs.Graph) -> int:
    """f(Transpose(x, 0 1 2 ...)) -> f(x)."""
    dropped = 0
    for node in graph.nodes:
        perm = node.attrs.get("perm")
        if node.op != "Transpose" or perm is None or list(perm) != list(range(len(perm))):
            continue
        dropped += bypass(node, node.inputs[0])
    return dropped


PASSES: tuple[Pass, ...] = (
    select_slices,
    drop_identity_transposes,
)


def bypass(node: gs.Node, source: gs.Tensor) -> int:
    """Let what reads the node's output read ``source``; the number of readers, 0 for an output."""
    readers = list(node.outputs[0].outputs)
    for reader in readers:
        reader.inputs = [
            source if tensor is node.outputs[0] else tensor for tensor in reader.inputs
        ]
    return len(readers)


def _made_by(tensor: gs.Tensor, op: str) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == op


def _scalar(tensor: gs.Tensor) -> int | None:
    """The one integer a constant holds, or None."""
    if isinstance(tensor, gs.Constant) and tensor.values.size == 1:
        return int(tensor.values.reshape(-1)[0])
    return None
