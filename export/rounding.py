"""Run an FP16 graph as FP16 hardware would, on a machine that has none.

onnxruntime's CPU kernels compute FP16 nodes in FP32 and never round, so overflow and rounding do
not show there. Here every FP16 tensor becomes an FP32 tensor that is rounded to FP16 values where
it is produced (an explicit Cast there and back; too large becomes inf), while sums inside one node
stay in FP32, as tensor cores accumulate. Run the result with graph optimisations off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
PEAKS = "peaks"
"""Extra output: the largest absolute value of each FP16 tensor, before it was rounded."""

_FLAT, _ZERO = "rounding/flat", "rounding/zero"
_MOVES = frozenset(
    {
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
        *("Identity", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice", "Split"),
        *("Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    }
)
"""Operators that only move numbers: there is nothing to round."""


def round_fp16(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return an FP32 graph that rounds like the FP16 one, and the names behind ``peaks``.

    It has one more output, ``peaks`` float32 n: max |x| of each tensor that an FP16 node computes.
    """
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    half = {
        value.name for value in typed.graph.value_info if value.type.tensor_type.elem_type == HALF
    }
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    graph.ClearField("node")
    graph.ClearField("value_info")
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    names: list[str] = []
    for node in model.graph.node:
        computed = [name for name in node.output if name in half and node.op_type not in _MOVES]
        wide = onnx.NodeProto()
        wide.CopyFrom(node)
        for attribute in wide.attribute:
            if node.op_type == "Cast" and attribute.i == HALF:
                attribute.i = FLOAT
            if node.op_type == "ConstantOfShape" and attribute.t.data_type == HALF:
                values = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(values))
        for i, name in enumerate(node.output):
            if name in computed:
                wide.output[i] = f"{name}/exact"
        graph.node.append(wide)
        for name in computed:
            graph.node.extend(_rounding(name, f"{name}/exact"))
            names.append(name)
    if names:
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), _FLAT))
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), _ZERO))
        peaks = [f"{name}/peak" for name in names]
        graph.node.append(helper.make_node("Concat", peaks, [PEAKS], name=PEAKS, axis=0))
        graph.output.append(helper.make_tensor_value_info(PEAKS, FLOAT, [len(names)]))
    return rounded, names


def _rounding(name: str, exact: str) -> list[onnx.NodeProto]:
    """x -> Cast to FP16 -> Cast to FP32, and max(|x|, 0) beside it: n = 0 leaves x empty."""

    def node(op: str, inputs: list[str], suffix: str, **attributes: Any) -> onnx.NodeProto:
        output = f"{name}/{suffix}" if suffix else name
        return helper.make_node(op, inputs, [output], name=f"{name}/{op}/{suffix}", **attributes)

    return [
        node("Cast", [exact], "half", to=HALF),
        node("Cast", [f"{name}/half"], "", to=FLOAT),
        node("Abs", [exact], "abs"),
        node("Reshape", [f"{name}/abs", _FLAT], "flat"),
        node("Concat", [f"{name}/flat", _ZERO], "some", axis=0),
        node("ReduceMax", [f"{name}/some"], "max", keepdims=0),
        node("Reshape", [f"{name}/max", _FLAT], "peak"),
    ]
