"""Name every node after the module that computes it, and drop what the tracer wrote about itself.

``layers.0.residual_group.layers.3.attn_aca/Softmax`` says which layer a node belongs to: precision
islands and reports speak in these names. The exporter also writes source paths and stack traces
into every node; they are twice the size of the weights and none of a user's business.

What a discrete choice returns gets a name too, so that it can be found after any surgery: see
``ppsr.models.network.Network``.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "network."
CHOOSE = "choose"
"""What the module of a discrete choice is called."""
CHOICE = "/choice"
"""How a tensor ends that a choice returns; before it stands the path of its module."""


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
    _name_choices(named)
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


def _name_choices(model: onnx.ModelProto) -> None:
    """Rename what the scopes of choices return, in place: the last tensor that leaves each.

    Those before it are sizes, which may have been found equal to sizes elsewhere and shared.
    """
    scopes = {
        name: node.name.rstrip("/")
        for node in model.graph.node
        if node.name.rstrip("/").split(".")[-1] == CHOOSE
        for name in node.output
    }
    leaving = {
        name
        for node in model.graph.node
        for name in node.input
        if name in scopes and scopes[name] != node.name.rstrip("/")
    }
    last = {scope: name for name, scope in scopes.items() if name in leaving}
    names = {name: f"{scope}{CHOICE}" for scope, name in last.items()}
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    del model.graph.value_info[:]


def _scope(node: onnx.NodeProto) -> str:
    """The dotted path of the module a node was traced from; "" where there is none."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes: list[str] = ast.literal_eval(entry.value)
            path = scopes[-2].removeprefix(_WRAPPER) if len(scopes) > 1 else ""
            return "" if path.startswith("_") else path
    return ""
