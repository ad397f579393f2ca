"""Graph surgery with onnx-graphsurgeon: small passes, each with one rewrite rule.

A pass edits the graph in place and returns how many rewrites it made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

Pass = Callable[[gs.Graph], int]

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Equal", "And", "Or"})


def operate(model: onnx.ModelProto, passes: tuple[Pass, ...]) -> onnx.ModelProto:
    """Run the passes in order, each until it finds nothing more, and tidy up after each."""
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True))
    for step in passes:
        while step(graph):
            pass
        graph.cleanup(remove_unused_graph_inputs=False).toposort()
    operated: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    operated.ir_version = model.ir_version
    operated.graph.ClearField("value_info")
    return operated


def share_constants(graph: gs.Graph) -> int:
    """f(c), g(c') -> f(c), g(c) where c and c' hold the same numbers."""
    first: dict[Hashable, gs.Constant] = {}
    shared = 0
    for tensor in list(graph.tensors().values()):
        if not isinstance(tensor, gs.Constant):
            continue
        values = tensor.values
        key = (values.dtype.str, values.shape, values.tobytes())
        kept = first.setdefault(key, tensor)
        if kept is not tensor:
            _redirect(tensor, kept)
            shared += 1
    return shared


def share_nodes(graph: gs.Graph) -> int:
    """f(x), f(x) -> one f(x): the shape arithmetic that every layer repeats."""
    first: dict[Hashable, gs.Node] = {}
    outputs = {id(tensor) for tensor in graph.outputs}
    shared = 0
    for node in graph.nodes:
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            continue
        key = (
            node.op,
            node.domain,
            tuple(id(tensor) for tensor in node.inputs),
            tuple(sorted((name, _frozen(value)) for name, value in node.attrs.items())),
            len(node.outputs),
        )
        kept = first.setdefault(key, node)
        if kept is node or any(id(tensor) in outputs for tensor in node.outputs):
            continue
        for duplicate, original in zip(node.outputs, kept.outputs, strict=True):
            _redirect(duplicate, original)
        node.outputs.clear()
        shared += 1
    return shared


def drop_expands(graph: gs.Graph) -> int:
    """Div(x, Expand(n)) -> Div(x, n): the operator broadcasts by itself.

    Only where x is not an Expand itself and n has as many axes as x, so that the result keeps
    x's shape; the traced normalisations are of this form.
    """
    dropped = 0
    for node in graph.nodes:
        if node.op not in _BROADCASTING or len(node.inputs) != 2:
            continue
        for here, other in ((1, 0), (0, 1)):
            producer = node.inputs[here].inputs[0] if node.inputs[here].inputs else None
            if producer is None or producer.op != "Expand" or _made_by(node.inputs[other], "Expand"):
                continue
            if not _fits(producer.inputs[0].shape, node.inputs[other].shape):
                continue
            node.inputs[here] = producer.inputs[0]
            dropped += 1
    return dropped


def select_slices(graph: gs.Graph) -> int:
    """Squeeze(Slice(x, i, i + 1, axis), axis) -> Gather(x, i, axis)."""
    selected = 0
    for node in graph.nodes:
        if node.op != "Squeeze" or len(node.inputs) != 2 or not node.inputs[0].inputs:
            continue
        cut = node.inputs[0].inputs[0]
        if cut.op != "Slice" or len(cut.inputs) < 4:
            continue
        start, stop, axis = (_scalar(tensor) for tensor in cut.inputs[1:4])
        step = _scalar(cut.inputs[4]) if len(cut.inputs) > 4 else 1
        if start is None or stop is None or axis is None or axis != _scalar(node.inputs[1]):
            continue
        if start < 0 or stop != start + 1 or step != 1:
            continue
        index = gs.Constant(f"{node.name}/index", np.array(start, dtype=np.int64))
        node.op, node.inputs, node.attrs = "Gather", [cut.inputs[0], index], {"axis": axis}
        selected += 1
    return selected


PASSES: tuple[Pass, ...] = (share_constants, drop_expands, select_slices, share_constants, share_nodes)


def _redirect(old: gs.Tensor, new: gs.Tensor) -> None:
    for consumer in list(old.outputs):
        consumer.inputs = [new if tensor is old else tensor for tensor in consumer.inputs]


def _frozen(value: object) -> Hashable:
    if isinstance(value, LazyValues):
        value = value.load()
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    return repr(value)


def _made_by(tensor: gs.Tensor, op: str) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == op


def _fits(small: list[object] | None, full: list[object] | None) -> bool:
    """Whether ``small`` broadcasts to ``full`` without widening it."""
    if small is None or full is None or len(small) != len(full):
        return False
    return all(a == 1 or (a == b and a is not None) for a, b in zip(small, full, strict=True))


def _scalar(tensor: gs.Tensor) -> int | None:
    """The one integer a constant holds, or None."""
    if isinstance(tensor, gs.Constant) and tensor.values.size == 1:
        return int(tensor.values.reshape(-1)[0])
    return None
