"""The layers whose precision can be chosen: linear layers and convolutions with constant weights.

A layer is named by the module that owns its weights, ``layers.2.3.attn_win.proj``, which is the
same in every export of a network. The products of attention are no layers: both sides are computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

_LINEAR = re.compile(r"(?:w?qkv|qkv_local|kv_global|wq|wk|wv|proj|fc[12])$")
"""Modules that multiply by a weight. Others multiply too, some by a constant keys or values."""
_OWNER = re.compile(r"(?:network\.)?(.+)\.(?:weight|bias)$")
_NESTED = "residual_group.layers."
_IN_BLOCK = re.compile(r"(layers\.\d+\.)\d+\.")

Rows = Literal["pixels", "active tokens", "dictionary"]


@dataclass(frozen=True)
class Linear:
    """One layer of a graph that ``tuning.SURGERY`` has made."""

    name: str
    kind: Literal["linear", "conv"]
    node: str
    """Name of its node: a MatMul, a Gemm or a Conv."""
    nodes: frozenset[str]
    """Names of all nodes that are its own: with the one that adds the bias."""
    input: str
    output: str
    """Tensors: what it multiplies, and what its node returns (a MatMul before the bias)."""
    weight: str
    """Initializer: [1,] I O of a MatMul, O I of a Gemm with transB, O I k k of a convolution."""
    rows: Rows
    """How many times a picture runs it."""
    multiply_adds: int
    """For each of the rows."""
    weight_bytes: int
    """In FP32."""

    @property
    def group(self) -> str:
        """The glob of its kind in its block, ``layers.2.*.attn_win.proj``; else its own name."""
        return _IN_BLOCK.sub(r"\1*.", self.name)

    @property
    def sites(self) -> dict[str, str]:
        """The tensors that INT8 needs a range of, by site."""
        named = {f"{self.name}/input": self.input}
        if self.kind == "conv":
            named[f"{self.name}/output"] = self.output
        return named


def list_layers_of(model: onnx.ModelProto) -> tuple[Linear, ...]:
    """Find the layers of a routed FP32 graph, in the order they run.

    The graph is one that ``tuning.SURGERY`` has made, before its weights are shared and a front
    end is joined.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    scopes: dict[str, set[str]] = {}
    for node in model.graph.node:
        scopes.setdefault(_scope(node), set()).add(node.name)
    return tuple(
        _layer(node, owner, weights[node.input[1]], scopes)
        for node in model.graph.node
        if (owner := _owner(node, weights)) is not None
    )


def groups(layers: Iterable[Linear]) -> dict[str, tuple[Linear, ...]]:
    """Sort layers by ``group``: glob (as ``fnmatch.fnmatchcase`` reads it) -> its layers."""
    sorted_out: dict[str, tuple[Linear, ...]] = {}
    for layer in layers:
        sorted_out[layer.group] = (*sorted_out.get(layer.group, ()), layer)
    return sorted_out


def sites_of(layers: Iterable[Linear]) -> dict[str, str]:
    """Return the tensors that INT8 needs ranges of: site -> name of the tensor."""
    return {site: tensor for layer in layers for site, tensor in layer.sites.items()}


def _owner(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> str | None:
    """The module that owns the weights of a node; None where the node is no layer."""
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in weights:
        return None
    if node.op_type != "Conv" and not _LINEAR.search(_scope(node)):
        return None
    # A convolution of convffn is called after its caller, but its bias after its owner.
    owned = (_OWNER.fullmatch(name) for name in node.input if name in weights)
    return next((found[1] for found in owned if found), _scope(node))


def _layer(
    node: onnx.NodeProto,
    owner: str,
    weight: onnx.TensorProto,
    scopes: Mapping[str, set[str]],
) -> Linear:
    kind: Literal["linear", "conv"] = "conv" if node.op_type == "Conv" else "linear"
    rows: Rows = "pixels"
    if "attn_aca." in owner:
        rows = "active tokens"
    elif owner.endswith(("attn_atd.wk", "attn_atd.wv")):
        rows = "dictionary"
    return Linear(
        name=owner.replace(_NESTED, ""),
        kind=kind,
        node=node.name,
        nodes=frozenset({node.name, *scopes.get(owner, ())}),
        input=node.input[0],
        output=node.output[0],
        weight=weight.name,
        rows=rows,
        multiply_adds=math.prod(weight.dims),
        weight_bytes=4 * math.prod(weight.dims),
    )


def _scope(node: onnx.NodeProto) -> str:
    return node.name.rpartition("/")[0]
