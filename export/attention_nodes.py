"""The operator that ``chunked`` traces, spelt in ONNX as each runtime of the CPU is fastest at it.

For onnxruntime it is a Scan: one chunk after the other, its logits in the cache; where all keys
have codes, an If with two, since codes are rarely anything but 0. OpenVINO makes one kernel of
product, softmax and product by itself, so it gets all chunks at once, and q, k and v from plain
linear layers, which it has in BF16 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .chunked import DOMAIN, OPERATOR, WIDTH

Arrays = dict[str, npt.NDArray[np.float32]]


def spell_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """ChunkedAttention(tokens, weights ...) -> Scan(tokens), with the arithmetic in its body."""
    return _spell(model, _scan)


def spell_linear(model: onnx.ModelProto) -> onnx.ModelProto:
    """ChunkedAttention(tokens, weights ...) -> linear layers and attention over all windows."""
    return _spell(model, _linear)


def share_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Lift the constants of bodies to the graph, where those of one name are one.

    graphsurgeon puts them into each body that reads them.
    """
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    known = {tensor.name for tensor in shared.graph.initializer}
    for body in _bodies(shared.graph):
        for tensor in body.initializer:
            if tensor.name not in known:
                shared.graph.initializer.append(tensor)
                known.add(tensor.name)
        body.ClearField("initializer")
    return shared


def _bodies(graph: GraphProto) -> Iterator[GraphProto]:
    """The graphs in its nodes, and those in theirs."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from _bodies(attribute.g)


class _Nodes:
    """The nodes that one operator becomes, and the constants they need."""

    def __init__(self, node: NodeProto, weights: Arrays) -> None:
        self.node, self.weights = node, weights
        self.begin(node.output[0], node.name.rpartition("/")[0])
        self.constants: Arrays = {}
        inputs = [*node.input, "", "", "", ""]
        self.tokens, self.q, self.k, self.v, self.q_bias, self.proj, self.proj_bias = inputs[:7]
        self.bias, self.query, self.key, self.shared = inputs[7:11]
        self.heads, self.channels, _ = weights[self.q].shape

    def begin(self, output: str, scope: str) -> None:
        """Begin a graph that makes ``output``; no two graphs of a model may share a name."""
        self.made: list[NodeProto] = []
        self.prefix, self.scope = f"{output}/", scope

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; the name of what it makes."""
        output = f"{self.prefix}{len(self.made)}"
        name = f"{self.scope}/{operator}_{len(self.made)}"
        self.made.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def constant(self, name: str, values: object) -> str:
        """Take a constant, one for all that have its name."""
        self.constants[name] = np.asarray(values)
        return name

    def attend(self, queries: str, keys: str, values: str, name: str, shape: list[int]) -> str:
        """softmax(q k^T + bias) v, heads side by side. n heads L 16, transposed keys -> n L 64.

        Reshaped to the constant ``name``, of ``shape``.
        """
        logits = self.add("MatMul", queries, keys)
        logits = self.add("Add", logits, self.bias) if self.bias else logits
        heads = self.add("MatMul", self.add("Softmax", logits, axis=-1), values)
        together = self.add("Transpose", heads, perm=[0, 2, 1, 3])
        return self.add("Reshape", together, self.constant(f"attention/{name}", shape))


def _scan(nodes: _Nodes) -> list[NodeProto]:
    """A Scan over chunks; with codes for all of them one with, one without, and an If.

    Codes are 0 but where there are fewer tokens than a group has places.
    """
    output, scope = nodes.node.output[0], nodes.scope
    if not nodes.shared:
        return [_one_scan(nodes, output, scope, "")]
    branches = {}
    for name, codes in (("then_branch", nodes.shared), ("else_branch", "")):
        scan = _one_scan(nodes, f"{output}/{name}", f"{scope}/{name}", codes)
        branches[name] = GraphProto(name=name, node=[scan], output=[_value(scan.output[0])])
    nodes.begin(output, scope)
    least = nodes.add("ReduceMin", nodes.shared, keepdims=0)
    few = nodes.add("Less", least, nodes.constant("attention/0", np.float32(0)))
    return [*nodes.made, helper.make_node("If", [few], [output], nodes.node.name, **branches)]


def _one_scan(nodes: _Nodes, output: str, scope: str, codes: str) -> NodeProto:
    """codes: of the keys of every chunk, or ""."""
    nodes.begin(output, scope)
    add, chunk = nodes.add, f"{output}/chunk"
    queries = add("Add", add("MatMul", chunk, nodes.q), nodes.q_bias)
    keys = add("MatMul", chunk, nodes.k)
    queries = add("Add", queries, f"{chunk}/query") if nodes.query else queries
    keys = add("Add", keys, f"{chunk}/key") if nodes.key else keys
    keys = add("Add", keys, codes) if codes else keys
    values = add("MatMul", chunk, nodes.v)
    keys = add("Transpose", keys, perm=[0, 1, 3, 2])
    rows = nodes.attend(queries, keys, values, "rows", [-1, nodes.heads * WIDTH])
    done = add("Gemm", rows, nodes.proj, nodes.proj_bias, transB=1)
    inputs = {chunk: nodes.tokens, f"{chunk}/query": nodes.query, f"{chunk}/key": nodes.key}
    fed = {inner: outer for inner, outer in inputs.items() if outer}
    body = GraphProto(name=scope, node=nodes.made, input=map(_value, fed), output=[_value(done)])
    scan = helper.make_node("Scan", list(fed.values()), [output], f"{scope}/Scan", body=body)
    scan.attribute.append(helper.make_attribute("num_scan_inputs", len(fed)))
    return scan


def _linear(nodes: _Nodes) -> list[NodeProto]:
    """Of chunks of one window or group."""
    add, weights, heads = nodes.add, nodes.weights, nodes.heads
    tokens = add("Squeeze", nodes.tokens, nodes.constant("attention/axes", [1, 2]))  # n L C

    def linear(name: str, bias: str = "", codes: str = "") -> str:
        """-> n L heads 16."""
        joined = weights[name].transpose(1, 0, 2).reshape(nodes.channels, heads * WIDTH)
        x = add("MatMul", tokens, nodes.constant(f"{name}/linear", joined))
        if bias:
            x = add("Add", x, nodes.constant(f"{bias}/linear", weights[bias].reshape(-1)))
        x = add("Reshape", x, nodes.constant("attention/heads", [0, 0, heads, WIDTH]))
        if not codes:
            return x
        one = nodes.constant("attention/one head", [0, -1, 1, WIDTH])
        return add("Add", x, add("Reshape", codes, one))

    queries = add("Transpose", linear(nodes.q, nodes.q_bias, nodes.query), perm=[0, 2, 1, 3])
    keys = add("Transpose", linear(nodes.k, "", nodes.key or nodes.shared), perm=[0, 2, 3, 1])
    values = add("Transpose", linear(nodes.v), perm=[0, 2, 1, 3])
    rows = nodes.attend(queries, keys, values, "tokens", [0, 0, heads * WIDTH])
    weight = nodes.constant(f"{nodes.proj}/linear", weights[nodes.proj].T)
    add("Add", add("MatMul", rows, weight), nodes.proj_bias)
    nodes.made[-1].output[0] = nodes.node.output[0]
    return nodes.made


def _spell(
    model: onnx.ModelProto, spelling: Callable[[_Nodes], list[NodeProto]]
) -> onnx.ModelProto:
    """Replace every operator by its nodes."""
    spelt = onnx.ModelProto()
    spelt.CopyFrom(model)
    graph = spelt.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants: Arrays = {}
    made: list[NodeProto] = []
    for node in graph.node:
        if (node.domain, node.op_type) != (DOMAIN, OPERATOR):
            made.append(node)
            continue
        nodes = _Nodes(node, weights)
        made += spelling(nodes)
        constants |= nodes.constants
    del graph.node[:]
    graph.node.extend(made)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(values), name)
        for name, values in constants.items()
    )
    kept = [opset for opset in spelt.opset_import if opset.domain != DOMAIN]
    del spelt.opset_import[:]
    spelt.opset_import.extend(kept)
    return spelt


def _value(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
