"""The export from end to end: trace, surgery, precision, verification, engine, publication."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ppsr.calibration.crops import sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.calibration.samples import Samples
from ppsr.models import build
from ppsr.models.errors import PpsrError
from ppsr.models.network import Network
from ppsr.runtime.artefact import Artefact, Form, Precision
from ppsr.runtime.files import replacing_all
from ppsr.runtime.sidecar import Flavour, Sidecar, sha256, sidecar_path
from ppsr.runtime.versions import installed, own_version

from .attention_nodes import share_weights
from .compose import join_front_end, write_metadata
from .engine import OnPhase
from .flavour import choose_flavour
from .lowering import lowering, read_told, take_ranges
from .naming import name_nodes
from .options import ExportOptions
from .plans import Planned, make_plans, now
from .reference import Reference
from .trace import trace_front_end, trace_network, trace_router
from .tuning import RECIPES, SURGERY, Stage
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
class Export:
    """Everything that was published."""

    models: tuple[Exported, ...]
    plan: Planned | None
    """None where no engine was asked for, or, with "auto", none can be built here."""
    ranges: Path | None = None
    """Where the activation ranges lie that were taken for this export."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """What upscales: the models, then the plan. Not the routing, which lies beside them."""
        models = (model.path for model in self.models if model.artefact.form != "routing")
        return (*models, *((self.plan.path,) if self.plan else ()))


@dataclass(frozen=True)
class _Graph:
    """A finished graph and what is told of it."""

    exported: Exported
    model: onnx.ModelProto
    sidecar: Sidecar
    data: bytes


def export_model(
    options: ExportOptions,
    progress: Progress = lambda _stage: nullcontext(),
    on_phase: OnPhase = lambda _phase, _done: True,
) -> Export:
    """Export, verify and publish every form asked for, all of them or none; then the engine.

    Raises BackendUnavailable where the target is missing, CheckpointError for the weights,
    UsageError for pictures, ranges and recipes that do not fit, PrecisionError where FP16 cannot
    hold the weights or INT8 lacks a range, ParityError where a graph does not do what the
    network does, PpsrError where TensorRT or the disk refuses. What an engine fails of, the ONNX
    files survive.
    """
    flavour = choose_flavour(options.target)
    told = read_told(options)
    with progress("load weights"):
        network = build(
            options.model,
            options.scale,
            options.weights,
            pure_pass=options.pure_pass,
            ratio=options.ratio,
        )
    recipe = RECIPES[options.tuning]
    with progress("trace the network"):
        traced = trace_network(recipe.fold(network), options.opset)
    traced = _apply(recipe.stages, traced, progress)
    files: dict[Path, bytes] = {}
    ranges = None
    if isinstance(told, Samples):
        with progress(f"take ranges from {len(told)} crops"):
            artefact = _artefact(options, "routed", "fp32", network)
            told = take_ranges(traced, artefact, (one.lr for one in told), options.estimator)
        ranges = options.output / f"{artefact.label}_x{options.scale}_int8.ranges.json"
        files[ranges] = told.to_text().encode()
    lower = lowering(options, told, traced, network.weights_sha256)
    reference = Reference(network)
    forms = options.forms if flavour is None else tuple(dict.fromkeys((*options.forms, "routed")))
    graphs = [_make(options, form, lower, traced, reference, progress) for form in forms]
    if "routed" in forms and network.config.pure_pass:
        graphs.append(_make_router(options, network, progress))
    published = [graph for graph in graphs if graph.exported.artefact.form in options.forms]
    if "routed" in options.forms:
        published += [graph for graph in graphs if graph.exported.artefact.form == "routing"]
    with progress("publish"):
        _publish(options.output, files | _files(published))
    plan = None
    if flavour is not None:
        plan = _build_plans(options, flavour, graphs, progress, on_phase)
    return Export(tuple(graph.exported for graph in published), plan, ranges)


def _apply(stages: Sequence[Stage], model: onnx.ModelProto, progress: Progress) -> onnx.ModelProto:
    for name, stage in stages:
        with progress(name):
            model = stage(model)
    return model


def _make(
    options: ExportOptions,
    form: Form,
    lower: Stage | None,
    traced: onnx.ModelProto,
    reference: Reference,
    progress: Progress,
) -> _Graph:
    """Make one form of the network, in the precision asked for, and verify it."""
    # The FP32 graph is made and judged for every other export too: it has the tight bounds.
    precisions: Sequence[Precision] = tuple(dict.fromkeys(("fp32", options.precision)))
    join = _joining(form, reference.network, options, progress)
    for precision in precisions if options.verify else precisions[-1:]:
        artefact = _artefact(options, form, precision, reference.network)
        lowered = [lower] if lower and precision != "fp32" else []
        describe: Stage = ("metadata", partial(write_metadata, artefact=artefact))
        share: Stage = ("share the weights", share_weights)
        model = _apply([*lowered, *join, share, describe], traced, progress)
        parity: list[Parity] = []
        if options.verify:
            with progress(f"verify {form} {precision}"):
                parity = verify(model, artefact, reference, _pictures(), options.atol)
    return _described(options, artefact, model, parity)


def _pictures() -> list[npt.NDArray[np.uint8]]:
    """What graphs are verified on."""
    return [crop.rgb for crop in sample_crops([("coffee", sample_photo())], VERIFIED_SIZES)]


def _make_router(options: ExportOptions, network: Network, progress: Progress) -> _Graph:
    """Make the graph that finds the active tokens. Its arithmetic is integer: there is one."""
    artefact = _artefact(options, "routing", "fp32", network)
    with progress("trace the routing"):
        traced = name_nodes(trace_router(network, options.opset), root="routing")
    describe: Stage = ("metadata", partial(write_metadata, artefact=artefact))
    model = _apply([*SURGERY[1:], describe], traced, progress)
    if options.verify:
        with progress("verify the routing"):
            verify_routing(model, artefact, _pictures())
    return _described(options, artefact, model, [])


def _joining(
    form: Form, network: Network, options: ExportOptions, progress: Progress
) -> list[Stage]:
    """What makes a form of the network: nothing for the routed one."""
    if form == "routed":
        return []
    with progress("trace the front end"):
        front = name_nodes(trace_front_end(network, options.opset), root="front")
    return [("join the front end", partial(join_front_end, front_end=front, scale=options.scale))]


def _artefact(
    options: ExportOptions, form: Form, precision: Precision, network: Network
) -> Artefact:
    return Artefact(
        model=options.model,
        scale=options.scale,
        form=form,
        precision=precision,
        opset=options.opset,
        weights_sha256=network.weights_sha256,
        version=own_version(),
        pure_pass=network.config.pure_pass,
        tuned_for="any" if form == "routing" else options.tuning,
        ratio=network.config.ratio,
    )


def _described(
    options: ExportOptions, artefact: Artefact, model: onnx.ModelProto, parity: Sequence[Parity]
) -> _Graph:
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
    return _Graph(exported, model, sidecar, data)


def _build_plans(
    options: ExportOptions,
    flavour: Flavour,
    graphs: Sequence[_Graph],
    progress: Progress,
    on_phase: OnPhase,
) -> Planned:
    """Build the engine, and publish it with the one that routes."""
    made = {graph.exported.artefact.form: (graph.model, graph.sidecar) for graph in graphs}
    with progress(f"build the engine with {flavour}"):
        plan = make_plans(options, flavour, made["routed"], made.get("routing"), on_phase)
    with progress("publish the engine"):
        _publish(options.output, plan.files)
    return plan


def _files(graphs: Sequence[_Graph]) -> dict[Path, bytes]:
    """Every file and what lies beside it, with their contents."""
    files: dict[Path, bytes] = {}
    for graph in graphs:
        path = graph.exported.path
        files |= {path: graph.data, sidecar_path(path): graph.sidecar.to_text().encode()}
    return files


def _publish(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write the files; no name appears before all of them are on the disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpsrError(f"cannot make the folder {folder}: {error.strerror}") from error
    with replacing_all(list(files)) as temporaries:
        for temporary, content in zip(temporaries, files.values(), strict=True):
            temporary.write_bytes(content)
