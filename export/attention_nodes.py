"""The operator that ``chunked`` traces, spelt in ONNX as each runtime of the CPU is fastest at it.

For onnxruntime it is a Scan over chunks with the operator Attention in its body: one head after the
other, its logits in the cache. Under a mask it is an If with two Scans, since the mask is rarely
anything but 0; where few chunks need their codes the body is an If. OpenVINO makes one kernel of
product, softmax and product by itself, so it gets these, of all chunks at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .chunked import DOMAIN, OPERATOR

Arrays = dict[str, npt.NDArray[np.float32]]
INPUTS: Final = (
    *("tokens", "q", "k", "v", "q_bias", "proj", "proj_bias"),
    *("bias", "query", "key", "coded", "mask"),
)
"""Of the operator, in order; see ``ChunkedAttention.forward``. What is not given is ""."""


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
    for body in bodies(shared.graph):
        for tensor in body.initializer:
            if tensor.name not in known:
                shared.graph.initializer.append(tensor)
                known.add(tensor.name)
        body.ClearField("initializer")
    return shared


def bodies(graph: GraphProto) -> Iterator[GraphProto]:
    """Find the graphs in its nodes, and those in theirs."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from bodies(attribute.g)


class _Nodes:
    """The nodes that one operator becomes, and the constants they need."""

    def __init__(self, node: NodeProto, weights: Arrays) -> None:
        self.node, self.weights = node, weights
        self.begin(node.output[0], node.name.rpartition("/")[0])
        self.constants: Arrays = {}
        given = [*node.input, *[""] * (len(INPUTS) - len(node.input))]
        self.tokens, self.q, self.k, self.v, self.q_bias, self.proj, self.proj_bias = given[:7]
        self.bias, self.query, self.key, self.coded, self.mask = given[7:]
        self.heads: int = helper.get_node_attr_value(node, "heads")
        self.codes: int = helper.get_node_attr_value(node, "codes")
        self.width = weights[self.q].shape[1]

    def fitted(self) -> _Nodes:
        """The same, its heads with room for codes if there are any."""
        if not self.query:
            return self
        wide = copy.copy(self)
        wide.width = self.width + self.heads * self.codes
        for name in filter(lambda one: getattr(self, one), ("q", "k", "v", "q_bias", "proj")):
            own = self.weights[getattr(self, name)]
            heads = own.reshape(*own.shape[:-1], self.heads, -1)
            room = np.zeros((*heads.shape[:-1], self.codes), own.dtype)
            padded = np.concatenate((heads, room), -1).reshape(*own.shape[:-1], wide.width)
            setattr(wide, name, self.constant(f"{getattr(self, name)}/wide", padded))
        return wide

    def without_codes(self) -> _Nodes:
        """The same, of chunks that need none."""
        plain = copy.copy(self)
        plain.query = plain.key = ""
        return plain

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
        self.constants[name] = self.weights[name] = np.asarray(values)
        return name

    def projection(self) -> str:
        """Its weights as a product takes them. W C."""
        return self.constant(f"{self.proj}/linear", self.weights[self.proj].T)

    def linear(self) -> tuple[str, str, str]:
        """q, k and v of tokens, with their codes. n L C -> n L W each."""
        queries = self.add("MatMul", self.tokens, self.q)
        for added in filter(None, (self.q_bias, self.query)):
            queries = self.add("Add", queries, added)
        keys = self.add("MatMul", self.tokens, self.k)
        keys = self.add("Add", keys, self.key) if self.key else keys
        return queries, keys, self.add("MatMul", self.tokens, self.v)


def _scan(nodes: _Nodes) -> list[NodeProto]:
    """A Scan over chunks; with a mask for all of them one with, one without, and an If.

    The mask is 0 but where there are fewer tokens than a group has places.
    """
    output, scope = nodes.node.output[0], nodes.scope
    if not nodes.mask:
        return [_one_scan(nodes, output, scope, nodes.bias)]
    assert not nodes.bias, "windows have a bias, groups may have a mask, none has both"
    branches = {}
    for name, added in (("then_branch", nodes.mask), ("else_branch", "")):
        scan = _one_scan(nodes, f"{output}/{name}", f"{scope}/{name}", added)
        branches[name] = GraphProto(name=name, node=[scan], output=[_value(scan.output[0])])
    nodes.begin(output, scope)
    least = nodes.add("ReduceMin", nodes.mask, keepdims=0)
    few = nodes.add("Less", least, nodes.constant("attention/0", np.float32(0)))
    return [*nodes.made, helper.make_node("If", [few], [output], nodes.node.name, **branches)]


def _one_scan(nodes: _Nodes, output: str, scope: str, added: str) -> NodeProto:
    """added: to the logits of every chunk, or ""."""
    chunk, fed = copy.copy(nodes), {}
    for name in ("tokens", "query", "key", "coded"):
        outer = getattr(nodes, name)
        if outer:
            inner = f"{output}/chunk/{name}"
            fed[inner] = outer
            setattr(chunk, name, inner)
    if chunk.coded:
        branches = {}
        for name, one in (("then_branch", chunk), ("else_branch", chunk.without_codes())):
            one.begin(f"{output}/{name}", f"{scope}/{name}")
            done = _attend(one.fitted(), added)
            branches[name] = GraphProto(name=name, node=one.made, output=[_value(done)])
        chunk.begin(output, scope)
        done = chunk.add("If", chunk.coded, **branches)
    else:
        chunk.begin(output, scope)
        done = _attend(chunk.fitted(), added)
    kinds = [TensorProto.BOOL if name == chunk.coded else TensorProto.FLOAT for name in fed]
    values = map(_value, fed, kinds)
    body = GraphProto(name=scope, node=chunk.made, input=values, output=[_value(done)])
    scan = helper.make_node("Scan", list(fed.values()), [output], f"{scope}/Scan", body=body)
    scan.attribute.append(helper.make_attribute("num_scan_inputs", len(fed)))
    return scan


def _attend(nodes: _Nodes, added: str) -> str:
    """From the tokens of one chunk to projected tokens."""
    add, heads = nodes.add, {"q_num_heads": nodes.heads, "kv_num_heads": nodes.heads}
    attended = [*nodes.linear(), *([added] if added else [])]
    rows = add("Attention", *attended, scale=1.0, **heads)
    rows = add("Reshape", rows, nodes.constant(f"attention/{nodes.width}", [-1, nodes.width]))
    if nodes.proj_bias:
        return add("Gemm", rows, nodes.proj, nodes.proj_bias, transB=1)
    return add("MatMul", rows, nodes.projection())


def _linear(nodes: _Nodes) -> list[NodeProto]:
    """Of chunks of one window or group."""
    nodes = nodes.fitted()
    add, width = nodes.add, nodes.width
    axis = nodes.constant("attention/axis", [1])
    nodes.tokens, nodes.query, nodes.key = (
        one and add("Squeeze", one, axis) for one in (nodes.tokens, nodes.query, nodes.key)
    )  # n L C
    shape = nodes.constant(f"attention/heads/{width}", [0, 0, nodes.heads, width // nodes.heads])
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    queries, keys, values = (
        add("Transpose", add("Reshape", one, shape), perm=order)
        for one, order in zip(nodes.linear(), orders, strict=True)
    )  # n heads L width, the keys transposed
    logits = add("MatMul", queries, keys)
    for added in filter(None, (nodes.bias, nodes.mask)):
        logits = add("Add", logits, added)
    heads = add("MatMul", add("Softmax", logits, axis=-1), values)
    together = add("Transpose", heads, perm=[0, 2, 1, 3])
    rows = add("Reshape", together, nodes.constant(f"attention/tokens/{width}", [0, 0, width]))
    add("Add", add("MatMul", rows, nodes.projection()), nodes.proj_bias)
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


def _value(name: str, kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)
