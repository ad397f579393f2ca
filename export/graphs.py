"""One form of a network as a finished graph: made, verified, described."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ppsr.calibration.crops import sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.models.network import Network
from ppsr.runtime.artefact import Artefact, Form, Precision
from ppsr.runtime.sidecar import Sidecar, sha256, sidecar_path
from ppsr.runtime.versions import installed, own_version

from .attention_nodes import share_weights
from .compose import join_front_end, write_metadata
from .naming import name_nodes
from .options import ExportOptions
from .plans import now
from .reference import Reference
from .trace import trace_front_end, trace_router
from .tuning import SURGERY, Stage
from .verify import Parity, verify, verify_routing

Progress = Callable[[str], AbstractContextManager[None]]
"""Called with the name of each stage; what it returns is open while the stage runs."""

PACKAGES = (
    *("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx"),
)
"""Whose versions the sidecar records."""

VERIFIED_SIZES = ((16, 16), (17, 40), (37, 50), (64, 64), (16, 280), (96, 130))
"""Height and width of the crops a fresh graph is run on: none is the traced size."""


@dataclass(frozen=True)
class Exported:
    """One published ONNX file."""

    path: Path
    artefact: Artefact
    parity: tuple[Parity, ...]
    """Empty where verification was skipped."""


@dataclass(frozen=True)
class Graph:
    """A finished graph and what is told of it."""

    exported: Exported
    model: onnx.ModelProto
    sidecar: Sidecar
    data: bytes


def apply(stages: Sequence[Stage], model: onnx.ModelProto, progress: Progress) -> onnx.ModelProto:
    for name, stage in stages:
        with progress(name):
            model = stage(model)
    return model


def make_graph(
    options: ExportOptions,
    form: Form,
    lower: Stage | None,
    traced: onnx.ModelProto,
    reference: Reference,
    progress: Progress,
) -> Graph:
    """Make one form of the network, in the precision asked for, and verify it."""
    # The FP32 graph is made and judged for every other export too: it has the tight bounds.
    precisions: Sequence[Precision] = tuple(dict.fromkeys(("fp32", options.precision)))
    join = _joining(form, reference.network, options, progress)
    for precision in precisions if options.verify else precisions[-1:]:
        artefact = artefact_of(options, form, precision, reference.network)
        lowered = [lower] if lower and precision != "fp32" else []
        describe: Stage = ("metadata", partial(write_metadata, artefact=artefact))
        share: Stage = ("share the weights", share_weights)
        model = apply([*lowered, *join, share, describe], traced, progress)
        parity: list[Parity] = []
        if options.verify:
            with progress(f"verify {form} {precision}"):
                parity = verify(model, artefact, reference, _pictures(), options.atol)
    return _described(options, artefact, model, parity)


def make_router(options: ExportOptions, network: Network, progress: Progress) -> Graph:
    """Make the graph that finds the active tokens. Its arithmetic is integer: there is one."""
    artefact = artefact_of(options, "routing", "fp32", network)
    with progress("trace the routing"):
        traced = name_nodes(trace_router(network, artefact.opset), root="routing")
    describe: Stage = ("metadata", partial(write_metadata, artefact=artefact))
    model = apply([*SURGERY[1:], describe], traced, progress)
    if options.verify:
        with progress("verify the routing"):
            verify_routing(model, artefact, _pictures())
    return _described(options, artefact, model, [])


def _described(
    options: ExportOptions, artefact: Artefact, model: onnx.ModelProto, parity: Sequence[Parity]
) -> Graph:
    data = model.SerializeToString()
    takes_active = artefact.takes_active
    fixed = artefact.form == "self-contained"
    sidecar = Sidecar(
        artefact=artefact,
        onnx_sha256=sha256(data),
        date=now(),
        versions=installed(PACKAGES),
        profiles=() if fixed else tuple(p.shape_range(takes_active) for p in options.profiles),
        parity=tuple(report.to_json() for report in parity),
    )
    exported = Exported(options.output / f"{artefact.stem}.onnx", artefact, tuple(parity))
    return Graph(exported, model, sidecar, data)


def files_of(graphs: Sequence[Graph]) -> dict[Path, bytes]:
    """Every file and what lies beside it, with their contents."""
    files: dict[Path, bytes] = {}
    for graph in graphs:
        path = graph.exported.path
        files |= {path: graph.data, sidecar_path(path): graph.sidecar.to_text().encode()}
    return files


def artefact_of(
    options: ExportOptions, form: Form, precision: Precision, network: Network
) -> Artefact:
    return Artefact(
        model=options.model,
        scale=options.scale,
        form=form,
        precision=precision,
        opset=options.opset_of(form),
        weights_sha256=network.weights_sha256,
        version=own_version(),
        pure_pass=network.config.pure_pass,
        tuned_for="any" if form == "routing" else options.tuning,
        ratio=network.config.ratio,
        blocks=network.config.blocks,
    )


def _joining(
    form: Form, network: Network, options: ExportOptions, progress: Progress
) -> list[Stage]:
    """What makes a form of the network: nothing for the routed one."""
    if form == "routed":
        return []
    with progress("trace the front end"):
        front = name_nodes(trace_front_end(network, options.opset_of(form)), root="front")
    return [("join the front end", partial(join_front_end, front_end=front, scale=options.scale))]


def _pictures() -> list[npt.NDArray[np.uint8]]:
    """What graphs are verified on."""
    return [crop.rgb for crop in sample_crops([("coffee", sample_photo())], VERIFIED_SIZES)]
