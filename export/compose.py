"""Join front end and network into one self-contained graph; write a graph's metadata."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from ppsr.runtime.artefact import ACTIVE, ATTENDED, COUNT, INPUT, OUTPUT, Artefact

from .trace import PADDED

FRONT = "front/"
"""Before the names of the front end's tensors in a self-contained graph."""
ROUTED = f"{FRONT}{ACTIVE}"
"""The tensor that holds the active tokens there."""


def join_front_end(
    network: onnx.ModelProto, front_end: onnx.ModelProto, scale: int
) -> onnx.ModelProto:
    """front end -> network -> crop: ``input`` 1 3 H W of any size -> ``output`` 1 3 S*H S*W.

    What else the network returns has the size of the picture, and is cropped to that.
    """
    # graphsurgeon would write the new names into the initialisers it is given.
    copy = onnx.ModelProto.FromString(front_end.SerializeToString())
    front, body = gs.import_onnx(copy), gs.import_onnx(network)
    picture = front.inputs[0]
    feeds = dict(zip((PADDED, ACTIVE), front.outputs, strict=False))
    for name, tensor in front.tensors().items():
        if tensor is not picture:
            tensor.name = f"{FRONT}{name}"
    for tensor in body.inputs:
        feed = feeds[PADDED if tensor.name == INPUT else ACTIVE]
        for consumer in list(tensor.outputs):
            consumer.inputs = [feed if t is tensor else t for t in consumer.inputs]

    size = gs.Variable("crop/size", dtype=np.int64)
    end = gs.Variable("crop/end", dtype=np.int64)

    def constant(name: str, values: list[int]) -> gs.Constant:
        return gs.Constant(f"crop/{name}", np.array(values, dtype=np.int64))

    start, axes = constant("start", [0, 0]), constant("axes", [2, 3])
    crop = [
        gs.Node("Shape", "crop/Shape", {"start": 2}, [picture], [size]),
        gs.Node("Mul", "crop/Mul", {}, [size, constant("scale", [scale])], [end]),
    ]
    cropped = []
    for whole in body.outputs:
        name, whole.name = whole.name, f"crop/whole_{whole.name}"
        cropped.append(gs.Variable(name, dtype=whole.dtype))
        until = end if name == OUTPUT else size
        label = f"crop/Slice_{len(cropped)}"
        crop.append(gs.Node("Slice", label, {}, [whole, start, until, axes], [cropped[-1]]))
    graph = gs.Graph(
        nodes=[*front.nodes, *body.nodes, *crop],
        inputs=[picture],
        outputs=cropped,
        opset=body.opset,
        name=body.name,
    )
    joined: onnx.ModelProto = gs.export_onnx(graph.toposort(), do_type_check=False)
    joined.ir_version = network.ir_version
    joined.graph.ClearField("value_info")
    return joined


def write_metadata(model: onnx.ModelProto, artefact: Artefact) -> onnx.ModelProto:
    """Write the identity into ``metadata_props`` and name the axes of inputs and outputs."""
    stamped = onnx.ModelProto()
    stamped.CopyFrom(model)
    stamped.producer_name, stamped.producer_version = "ppsr", artefact.version
    stamped.ClearField("doc_string")
    helper.set_model_props(stamped, artefact.to_metadata())
    graph = stamped.graph
    graph.name = artefact.stem
    float32, s = TensorProto.FLOAT, artefact.scale
    values: dict[str, tuple[int, list[str | int | None]]] = {
        INPUT: (float32, [1, 3, "height", "width"]),
        ACTIVE: (TensorProto.INT64, ["tokens"]),
        COUNT: (TensorProto.INT32, [1]),
        ATTENDED: (TensorProto.INT32, [1, 1, "height", "width"]),
        OUTPUT: (float32, [1, 3, f"{s}*height", f"{s}*width"]),
    }
    for value in (*graph.input, *graph.output):
        kind, shape = values[value.name]
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))
    onnx.checker.check_model(stamped, full_check=True)
    return stamped
