"""Graph surgery for onnxruntime on the CPU; passes as in ``surgery``."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ppsr.runtime.artefact import ACTIVE

from .surgery import Pass


def one_hot_rows(graph: gs.Graph) -> int:
    """Cast(x == 0, 1 ... K - 1) -> rows of the unit matrix: gathered, not compared and cast.

    x holds numbers from 0 to K - 1 in one column: categories are nothing else.
    """
    units: dict[int, gs.Constant] = {}
    flat = gs.Constant("one_hot/flat", np.array([-1]))
    made: list[gs.Node] = []
    changed = 0
    for node in graph.nodes:
        found = node.inputs[0].inputs if node.op == "Cast" else []
        if not found or found[0].op != "Equal" or node.outputs[0].dtype != np.int32:
            continue
        column, kinds = found[0].inputs
        if not isinstance(kinds, gs.Constant) or column.shape is None or len(column.shape) != 2:
            continue
        count = kinds.values.size
        if column.shape[1] != 1 or kinds.values.tolist() != list(range(count)):
            continue
        unit = gs.Constant(f"one_hot/{count}", np.eye(count, dtype=np.int32))
        row = gs.Variable(f"{node.outputs[0].name}/row")
        made.append(gs.Node("Reshape", f"{node.name}/row", {}, [column, flat], [row]))
        node.op, node.attrs = "Gather", {"axis": 0}
        node.inputs = [units.setdefault(count, unit), row]
        changed += 1
    graph.nodes.extend(made)
    return changed


def gather_before_adding(graph: gs.Graph) -> int:
    """GatherElements(Add(x, row), i) -> Add(GatherElements(x, i), Gather(row, i)): fewer are added.

    x: n K; row: 1 K; i: n 1; of a row one number each.
    """
    flat = gs.Constant("gather/flat", np.array([-1]))
    made: list[gs.Node] = []
    changed = 0
    for node in graph.nodes:
        total = node.inputs[0]
        if node.op != "GatherElements" or not total.inputs or total.inputs[0].op != "Add":
            continue
        if len(total.outputs) != 1 or total in graph.outputs:
            continue
        x, row = total.inputs[0].inputs
        if row.shape is None or len(row.shape) != 2 or row.shape[0] != 1:
            continue
        if node.attrs.get("axis", 0) not in (-1, 1):
            continue
        index = node.inputs[1]
        once, own, found = (
            gs.Variable(f"{node.outputs[0].name}/{name}", x.dtype)
            for name in ("row", "of_row", "of_all")
        )
        made += [
            gs.Node("Reshape", f"{node.name}/row", {}, [row, flat], [once]),
            gs.Node("Gather", f"{node.name}/of_row", {"axis": 0}, [once, index], [own]),
            gs.Node("GatherElements", f"{node.name}/of_all", dict(node.attrs), [x, index], [found]),
        ]
        node.op, node.attrs, node.inputs = "Add", {}, [found, own]
        changed += 1
    graph.nodes.extend(made)
    return changed


def skip_whole_scatters(graph: gs.Graph) -> int:
    """ScatterND(x, [0 active], Gather(y, r)) -> If(all are active, Gather(y, [r]), what it was).

    x: 1 T C, y: S C, r: n. Active tokens come in rising order: as many as there are tokens are all
    of them, one after the other. Each branch gathers for itself: a branch that returns what was
    made outside would copy it.
    """
    axis = gs.Constant("scatter/axis", np.array([0]))
    made: list[gs.Node] = []
    changed = 0
    for node in graph.nodes:
        gather = node.inputs[-1].inputs[0] if node.op == "ScatterND" else node
        if gather.op != "Gather" or not _is_of_active(node.inputs[1]):
            continue
        x, index, _ = node.inputs
        y, rows = gather.inputs
        name = node.name
        tokens, number, row, whole, every, some, back = (
            gs.Variable(f"{node.outputs[0].name}/{what}", dtype)
            for what, dtype in (
                *(("tokens", np.int64), ("number", np.int64), ("row", rows.dtype)),
                *(("whole", np.bool_), ("every", y.dtype), ("some", y.dtype), ("back", y.dtype)),
            )
        )
        made += [
            gs.Node("Shape", f"{name}/tokens", {"start": 1, "end": 2}, [x], [tokens]),
            gs.Node("Shape", f"{name}/number", {}, [rows], [number]),
            gs.Node("Equal", f"{name}/whole", {}, [number, tokens], [whole]),
            gs.Node("Unsqueeze", f"{name}/row", {}, [rows, axis], [row]),
        ]
        branches = {
            "then_branch": [gs.Node("Gather", f"{name}/every", {"axis": 0}, [y, row], [every])],
            "else_branch": [
                gs.Node("Gather", f"{name}/some", {"axis": 0}, [y, rows], [some]),
                gs.Node("ScatterND", f"{name}/back", {}, [x, index, some], [back]),
            ],
        }
        node.op, node.inputs = "If", [whole]
        node.attrs = {
            branch: gs.Graph(nodes, outputs=nodes[-1].outputs, name=branch, opset=graph.opset)
            for branch, nodes in branches.items()
        }
        changed += 1
    graph.nodes.extend(made)
    return changed


def _is_of_active(index: gs.Tensor) -> bool:
    """Whether ``index_surgery.scatter_in_place`` made it of the input ``active``."""
    for op, place in (("Concat", -1), ("Unsqueeze", 0)):
        if not index.inputs or index.inputs[0].op != op:
            return False
        index = index.inputs[0].inputs[place]
    return bool(index.name == ACTIVE)


ORT_PASSES: tuple[Pass, ...] = (one_hot_rows, gather_before_adding, skip_whole_scatters)
