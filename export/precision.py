"""The precision stage: rewrite a typed FP32 graph in FP16, but for named FP32 islands.

TensorRT 11 has no precision flags: what the graph says is what runs. So types are made coherent
here, by construction: every float node is FP16 or FP32, and a Cast stands on each edge between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ppsr.models.errors import PrecisionError

from .islands import ISLANDS, Island

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def to_fp16(model: onnx.ModelProto, islands: Sequence[Island] = ISLANDS) -> onnx.ModelProto:
    """Return the graph with float nodes in FP16, inputs and outputs and ``islands`` in FP32.

    Raises PrecisionError where a constant would overflow in FP16, or a single number (an epsilon)
    vanish.
    """
    is_island = finder(islands)
    return halve(model, lambda name: not is_island(name))


def finder(islands: Sequence[Island]) -> Callable[[str], bool]:
    """Return what tells of a node, by its name, whether it is in one of ``islands``."""
    pattern = re.compile("|".join(f"(?:{island.pattern})" for island in islands) or r"(?!)")
    return lambda name: pattern.search(name) is not None


def halve(model: onnx.ModelProto, is_half: Callable[[str], bool]) -> onnx.ModelProto:
    """Return the graph with those float nodes in FP16 whose name ``is_half`` takes.

    Raises as ``to_fp16``.
    """
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return _Halving(typed, is_half).model()


def holds_fp16(model: onnx.ModelProto) -> bool:
    """Tell whether anything in a graph is FP16: whatever is was cast, inputs are FP32."""
    return any(
        attribute.name == "to" and attribute.i == HALF
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    ) or any(tensor.data_type == HALF for tensor in model.graph.initializer)


@dataclass
class _Halving:
    """One conversion: the tensors known so far, in the types they exist in."""

    source: onnx.ModelProto
    is_half: Callable[[str], bool]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    native: dict[str, int] = field(default_factory=dict)
    """Type of each float tensor as it is produced."""
    cast: dict[tuple[str, int], str] = field(default_factory=dict)
    """Name of each float tensor in each type it was asked for."""

    def model(self) -> onnx.ModelProto:
        graph = self.source.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        inferred = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.input, *graph.output, *graph.value_info)
        }
        inferred |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.native = {
            name: FLOAT
            for name in (*self.constants, *(value.name for value in graph.input))
            if inferred[name] == FLOAT
        }
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            precision = HALF if self.is_half(node.name) else FLOAT
            self._convert(node, precision, inferred, outputs)

        half = onnx.ModelProto()
        half.CopyFrom(self.source)
        half.graph.ClearField("node")
        half.graph.ClearField("initializer")
        half.graph.ClearField("value_info")
        half.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        half.graph.initializer.extend(t for name, t in self.constants.items() if name in used)
        return half

    def _convert(
        self, node: onnx.NodeProto, precision: int, inferred: dict[str, int], outputs: set[str]
    ) -> None:
        converted = onnx.NodeProto()
        converted.CopyFrom(node)
        if node.op_type not in ("Shape", "Size", "Cast"):
            for i, name in enumerate(node.input):
                if name in self.native:
                    converted.input[i] = self._as(name, precision, node)
        self._retype_attributes(converted, precision)
        self.nodes.append(converted)
        for i, name in enumerate(node.output):
            if inferred.get(name) != FLOAT:
                continue
            self.native[name] = precision
            if name in outputs and precision == HALF:
                converted.output[i] = f"{name}_fp16"
                self.nodes.append(_cast(f"{name}_fp16", name, FLOAT))

    def _as(self, name: str, precision: int, consumer: onnx.NodeProto) -> str:
        """The tensor in ``precision``, cast once for all its consumers."""
        if self.native[name] == precision:
            return name
        if (name, precision) not in self.cast:
            suffixed = f"{name}_{'fp16' if precision == HALF else 'fp32'}"
            if name in self.constants:
                self.constants[suffixed] = _half_constant(
                    self.constants[name], suffixed, consumer.name
                )
            else:
                self.nodes.append(_cast(name, suffixed, precision))
            self.cast[name, precision] = suffixed
        return self.cast[name, precision]

    @staticmethod
    def _retype_attributes(node: onnx.NodeProto, precision: int) -> None:
        """Make nodes that choose their own output type choose ``precision``."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = precision
            if node.op_type == "ConstantOfShape" and attribute.t.data_type == FLOAT:
                values = numpy_helper.to_array(attribute.t)
                dtype = np.float16 if precision == HALF else np.float32
                attribute.t.CopyFrom(numpy_helper.from_array(values.astype(dtype)))


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], name=f"cast/{target}", to=to)


def _half_constant(tensor: TensorProto, name: str, consumer: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = np.isfinite(values) & ~np.isfinite(half)
    if values.size == 1:
        lost |= (half == 0) & (values != 0)
    if lost.any():
        raise PrecisionError(
            f"{consumer} uses {float(values[lost][0]):g}, which FP16 cannot hold; "
            "export without --fp16"
        )
    return numpy_helper.from_array(half, name)
