"""Name every node after the module that computes it, and drop what the tracer wrote about itself.

``layers.0.residual_group.layers.3.attn_aca/Softmax`` says which layer a node belongs to: precision
islands and reports speak in these names. The exporter also writes source paths and stack traces
into every node; they are twice the size of the weights and none of a user's business.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "network."


def name_nodes(model: onnx.ModelProto, root: str = "") -> onnx.ModelProto:
    """Return the model with nodes named ``scope/OpType[_i]`` and without the tracer's notes.

    root: scope of nodes that belong to no module.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        node.name = f"{_scope(node) or root}/"
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    graph = named.graph
    for holder in (named, graph, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    named.ClearField("functions")
    number_nodes(named)
    return named


def number_nodes(model: onnx.ModelProto) -> None:
    """Make names ``scope/OpType[_i]`` again, in place: unique, true after a node has changed."""
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        scope = node.name.rpartition("/")[0]
        name = f"{scope}/{node.op_type}".lstrip("/")
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


def _scope(node: onnx.NodeProto) -> str:
    """The dotted path of the module a node was traced from; "" where there is none."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes: list[str] = ast.literal_eval(entry.value)
            path = scopes[-2].removeprefix(_WRAPPER) if len(scopes) > 1 else ""
            return "" if path.startswith("_") else path
    return ""
