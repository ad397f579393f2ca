"""Graph surgery for onnxruntime on the CPU; passes as in ``surgery``."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

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


ORT_PASSES: tuple[Pass, ...] = (one_hot_rows,)
