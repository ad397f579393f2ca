"""The INT8 stage: explicit QuantizeLinear and DequantizeLinear around the layers of a FP32 graph.

    y = dq(q(x)) @ dq(W8) + b        q(x) = clip(round(x / s), -128, 127), dq(i) = s * i

Symmetric: every zero point is 0. An activation has one scale, its range / 127; weights are kept in
INT8 and have a scale for each output channel. One form serves both runtimes. TensorRT reads the
pairs as they stand. onnxruntime makes integer kernels of them where it can: MatMulIntegerToFloat
needs weights of rank 2 and the bias in an Add of its own (a Gemm with a float bias stays FP32),
QLinearConv needs a pair behind the convolution too. On x86 it moves activations to uint8 by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ppsr.models.errors import PrecisionError

from .linear import Linear, list_layers_of

LEVELS = 127
"""The largest absolute value of an INT8 number in use: -128 has no counterpart."""

_ZERO = "int8_zero"


def quantise(
    model: onnx.ModelProto, layers: Collection[str], amax: Mapping[str, float]
) -> onnx.ModelProto:
    """Return the graph with the named ``layers`` in INT8 and all else as it was.

    model: FP32, as ``linear.list_layers_of`` takes it; layers: their names; amax: for each
    site (``Linear.sites``) of these layers the largest absolute value that is kept. Raises
    PrecisionError for a layer that the graph does not have, and where a range is missing or not
    above 0.
    """
    found = {layer.name: layer for layer in list_layers_of(model)}
    if unknown := sorted(set(layers) - set(found)):
        raise PrecisionError(
            f"expected names of layers, the network has no {unknown[0]!r}; "
            f"it has {next(iter(found), 'none')!r} and {max(0, len(found) - 1)} others"
        )
    chosen = {layer.node: layer for name, layer in found.items() if name in set(layers)}
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    made = _Quantising({t.name: t for t in model.graph.initializer}, amax)
    for node in model.graph.node:
        made.take(node, chosen.get(node.name))
    quantised.graph.ClearField("node")
    quantised.graph.ClearField("initializer")
    quantised.graph.ClearField("value_info")
    quantised.graph.node.extend(made.nodes)
    used = {name for node in made.nodes for name in node.input}
    quantised.graph.initializer.extend(t for n, t in made.constants.items() if n in used)
    return quantised


@dataclass
class _Quantising:
    """One conversion: nodes so far, and what was made once for all that use it."""

    constants: dict[str, onnx.TensorProto]
    amax: Mapping[str, float]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    taken: set[tuple[str, float]] = field(default_factory=set)
    """Activations that are in INT8 already, with their scales."""

    def take(self, node: onnx.NodeProto, layer: Linear | None) -> None:
        """Append a node, in INT8 where it is a chosen layer's."""
        if layer is None:
            self.nodes.append(node)
            return
        x = self._activation(node.input[0], layer)
        if layer.kind == "conv":
            # Its bias stays a float in the file: TensorRT reads no INT32 bias.
            weight = self._weight(layer, self._array(node.input[1]), axis=0)
            exact = f"{layer.output}_exact"
            self._add("Conv", [x, weight, *node.input[2:]], exact, node.name, node.attribute)
            site = f"{layer.name}/output"
            self._pair(exact, layer.output, site, self._scale(layer, "output"))
            return
        values = self._array(node.input[1])
        bias = ""
        if node.op_type == "Gemm":
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            values = values.T if attributes.get("transB") else values
            bias = node.input[2] if len(node.input) > 2 else ""
        weight = self._weight(layer, values.reshape(values.shape[-2:]), axis=1)
        product = f"{layer.output}_product" if bias else layer.output
        scope = node.name.rpartition("/")[0]
        self._add("MatMul", [x, weight], product, f"{scope}/MatMul")
        if bias:
            self._add("Add", [product, bias], layer.output, f"{scope}/Add")

    def _activation(self, name: str, layer: Linear) -> str:
        """What is left of a layer's input in INT8, as a float again."""
        site, scale = f"{layer.name}/input", self._scale(layer, "input")
        # onnxruntime fuses no pair that two layers read, and makes one of equal pairs: so the
        # scales of those that read the same differ in the last bit.
        while (name, scale) in self.taken:
            scale = float(np.nextafter(np.float32(scale), np.float32(np.inf)))
        self.taken.add((name, scale))
        return self._pair(name, f"{site}/float", site, scale)

    def _pair(self, source: str, target: str, site: str, scale: float) -> str:
        """Append QuantizeLinear and DequantizeLinear of an activation; return ``target``."""
        scales, integers = f"{site}/scale", f"{site}/int8"
        self._constant(scales, np.array(scale, np.float32))
        self._constant(_ZERO, np.array(0, np.int8))
        self._add("QuantizeLinear", [source, scales, _ZERO], integers, f"{site}/QuantizeLinear")
        name = f"{site}/DequantizeLinear"
        self._add("DequantizeLinear", [integers, scales, _ZERO], target, name)
        return target

    def _weight(self, layer: Linear, values: npt.NDArray[np.float32], axis: int) -> str:
        """Append what makes the weights floats again; they are kept in INT8."""
        site = f"{layer.name}/weight"
        others = tuple(i for i in range(values.ndim) if i != axis)
        amax = np.abs(values).max(others, keepdims=True)
        scale = np.where(amax > 0, amax, 1).astype(np.float32) / np.float32(LEVELS)
        self._constant(f"{site}/int8", np.rint(values / scale).astype(np.int8))
        self._constant(f"{site}/scale", scale.reshape(-1))
        self._constant(f"{site}/zero", np.zeros(scale.size, np.int8))
        names = [f"{site}/{part}" for part in ("int8", "scale", "zero")]
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", names, [f"{site}/float"], f"{site}/DequantizeLinear", axis=axis
            )
        )
        return f"{site}/float"

    def _scale(self, layer: Linear, end: str) -> float:
        site = f"{layer.name}/{end}"
        if site not in self.amax:
            raise PrecisionError(f"there is no range for {site}; collect the ranges again")
        amax = self.amax[site]
        scale = float(np.float32(amax) / np.float32(LEVELS))
        if not 0 < scale < np.inf:
            raise PrecisionError(f"expected a range above 0 for {site}, got {amax:g}")
        return scale

    def _array(self, name: str) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = numpy_helper.to_array(self.constants[name])
        return values

    def _constant(self, name: str, values: npt.NDArray[np.float32] | npt.NDArray[np.int8]) -> None:
        self.constants[name] = numpy_helper.from_array(values, name)

    def _add(
        self,
        kind: str,
        inputs: list[str],
        output: str,
        name: str,
        attributes: Collection[onnx.AttributeProto] = (),
    ) -> None:
        node = helper.make_node(kind, inputs, [output], name)
        node.attribute.extend(attributes)
        self.nodes.append(node)
