"""Graph surgery on indices: what is done to them once need not be done to every tensor.

The passes are those of ``surgery``: a graph edited in place, the number of rewrites returned.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from .surgery import Pass


def exclusive_sums(graph: gs.Graph) -> int:
    """Sub(CumSum(x), x) -> CumSum<exclusive>(x): the sum of what stands before."""
    made = 0
    for node in graph.nodes:
        sums = _producer(node, 0, "CumSum")
        if node.op != "Sub" or sums is None or node.inputs[1] is not sums.inputs[0]:
            continue
        if sums.attrs.get("exclusive", 0):
            continue
        node.op, node.inputs = "CumSum", list(sums.inputs)
        node.attrs = {**sums.attrs, "exclusive": 1}
        made += 1
    return made


def shape_indices(graph: gs.Graph) -> int:
    """Reshape(Gather(c, i, 1), [1, rows, a, b]) -> Gather([c], Reshape(i, [a, b]), 2).

    c: a constant of ``rows`` rows; i: one axis. The index is reshaped once for all constants: the
    position biases of all layers have the same one.
    """
    shaped: dict[tuple[str, int, int], gs.Variable] = {}
    rows: dict[str, gs.Constant] = {}
    made: list[gs.Node] = []
    changed = 0
    for node in graph.nodes:
        gather = _producer(node, 0, "Gather")
        if node.op != "Reshape" or gather is None or gather.attrs.get("axis", 0) != 1:
            continue
        table, index = gather.inputs
        shape = _values(node.inputs[1])
        if not isinstance(table, gs.Constant) or len(table.shape) != 2 or index.shape is None:
            continue
        if len(index.shape) != 1 or len(shape) != 4 or shape[:2] != [1, table.shape[0]]:
            continue
        if min(shape) < 1:
            continue
        key = (index.name, shape[2], shape[3])
        if key not in shaped:
            name = f"{index.name}_{shape[2]}x{shape[3]}"
            size = gs.Constant(f"{name}/shape", np.array(shape[2:], np.int64))
            shaped[key] = gs.Variable(name, index.dtype, shape[2:])
            scope = (index.inputs[0] if index.inputs else gather).name.rpartition("/")[0]
            made.append(gs.Node("Reshape", f"{scope}/{name}", {}, [index, size], [shaped[key]]))
        node.op, node.attrs = "Gather", {"axis": 2}
        if table.name not in rows:
            rows[table.name] = gs.Constant(f"{table.name}_rank3", table.values[None])
        node.inputs = [rows[table.name], shaped[key]]
        changed += 1
    graph.nodes.extend(made)
    return changed


def scatter_in_place(graph: gs.Graph) -> int:
    """Unsqueeze(ScatterND(Squeeze(x, 0), i, u), 0) -> ScatterND(x, [0 i], u).

    i: one column, made two once for all uses.
    """
    paired: dict[str, gs.Variable] = {}
    made: list[gs.Node] = []
    changed = 0
    for node in graph.nodes:
        scatter = _producer(node, 0, "ScatterND")
        if node.op != "Unsqueeze" or scatter is None or len(scatter.outputs[0].outputs) != 1:
            continue
        squeeze = _producer(scatter, 0, "Squeeze")
        if squeeze is None or len(squeeze.inputs) != 2:
            continue
        index = scatter.inputs[1]
        if _values(node.inputs[1]) != [0] or _values(squeeze.inputs[1]) != [0]:
            continue
        if index.shape is None or len(index.shape) != 2 or index.shape[1] != 1:
            continue
        if index.name not in paired:
            scope = (index.inputs[0] if index.inputs else scatter).name.rpartition("/")[0]
            zeros = gs.Variable(f"{index.name}_zeros", index.dtype, index.shape)
            pair = gs.Variable(f"{index.name}_pair", index.dtype, [index.shape[0], 2])
            made.append(gs.Node("Sub", f"{scope}/zeros", {}, [index, index], [zeros]))
            made.append(gs.Node("Concat", f"{scope}/pair", {"axis": 1}, [zeros, index], [pair]))
            paired[index.name] = pair
        node.op, node.attrs = "ScatterND", dict(scatter.attrs)
        node.inputs = [squeeze.inputs[0], paired[index.name], scatter.inputs[2]]
        changed += 1
    graph.nodes.extend(made)
    return changed


INDEX_PASSES: tuple[Pass, ...] = (exclusive_sums, shape_indices, scatter_in_place)


def _producer(node: gs.Node, place: int, op: str) -> gs.Node | None:
    """The node of kind ``op`` that makes this input, or None."""
    if len(node.inputs) <= place or not node.inputs[place].inputs:
        return None
    made: gs.Node = node.inputs[place].inputs[0]
    return made if made.op == op else None


def _values(tensor: gs.Tensor) -> list[int]:
    """What a constant holds, or nothing."""
    values: list[int] = []
    if isinstance(tensor, gs.Constant):
        values = tensor.values.reshape(-1).tolist()
    return values
