"""A graph in memory as a backend, which shows what flows inside it; and the graph's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx

from ppsr.models.errors import PpsrError
from ppsr.runtime.artefact import OUTPUT, Artefact
from ppsr.runtime.backend import Arrays, Closing
from ppsr.runtime.ort import ERRORS, one_line, open_session
from ppsr.runtime.sidecar import ShapeRange

from .naming import CHOICE
from .openvino_surgery import CATEGORY
from .precision import holds_fp16
from .rounding import round_fp16


class GraphBackend(Closing):
    """A graph on onnxruntime, on the CPU. ``run`` also returns the tensors that are watched."""

    device = "CPU"
    profiles: Sequence[ShapeRange] = ()

    def __init__(
        self,
        model: onnx.ModelProto,
        artefact: Artefact,
        *,
        watch: Sequence[str] = (),
        optimise: bool = True,
        threads: int | None = None,
    ) -> None:
        """Load a routed or self-contained graph; ``watch`` names tensors inside it.

        FP16 tensors are really rounded (see ``rounding``), then without ``optimise``, which would
        undo it. Raises PpsrError for a tensor that is not in the graph.
        """
        self.artefact = artefact
        self.wants_active = artefact.takes_active
        if holds_fp16(model):
            model, optimise = round_fp16(model)[0], False
        self._names = list(dict.fromkeys((OUTPUT, *watch)))
        shown = watched(model, self._names).SerializeToString()
        self._session: Any | None = open_session(shown, threads=threads, optimise=optimise)

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once, as ``Backend.run``; the watched tensors come by name too.

        Raises PpsrError where the graph fails or is closed.
        """
        if self._session is None:
            raise PpsrError("this model is closed")
        try:
            found = self._session.run(self._names, dict(feed))
        except ERRORS as error:
            raise PpsrError(f"the graph failed: {one_line(error)}") from error
        return dict(zip(self._names, found, strict=True))

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._session = None


def watched(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with the named tensors among its outputs. Raises PpsrError for unknown ones.

    Their types are left to the runtime to infer.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    made |= {value.name for value in model.graph.input}
    outputs = {value.name for value in model.graph.output}
    for name in dict.fromkeys(names):
        if name not in made:
            raise PpsrError(f"expected a tensor to watch, the graph has no {name!r}")
        if name not in outputs:
            shown.graph.output.add(name=name)
    return shown


def category_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Return where the category of every token is: module that asks for it -> int64 tensor."""
    return {
        node.name.rpartition("/")[0]: node.output[0]
        for node in model.graph.node
        if node.op_type == "ArgMax" or node.output[0].endswith(CATEGORY)
    }


def choice_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Return where the other discrete choices are: module -> bool or int64 tensor."""
    return {
        name.removesuffix(CHOICE): name
        for node in model.graph.node
        for name in node.output
        if name.endswith(CHOICE)
    }


def graph_sha256(model: onnx.ModelProto) -> str:
    """Hash what a graph computes: nodes and constants, no metadata, no version, no shapes.

    Two exports of the same weights have the same.
    """
    graph = onnx.GraphProto(node=model.graph.node, initializer=model.graph.initializer)
    for holder in (*graph.node, *graph.initializer):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()
