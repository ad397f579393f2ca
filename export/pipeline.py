"""The export from end to end: trace, surgery, precision, verification, engine, publication."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ppsr.calibration.samples import Samples
from ppsr.models import build
from ppsr.models.errors import PpsrError
from ppsr.runtime.files import replacing_all
from ppsr.runtime.sidecar import Flavour

from .engine import OnPhase
from .flavour import choose_flavour
from .graphs import (
    Exported,
    Graph,
    Progress,
    apply,
    artefact_of,
    files_of,
    make_graph,
    make_router,
)
from .lowering import lowering, read_told, take_ranges
from .options import ExportOptions
from .plans import Planned, make_plans
from .reference import Reference
from .trace import trace_network
from .tuning import RECIPES


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
        traced = trace_network(recipe.fold(network), options.opset_of("routed"))
    traced = apply(recipe.stages, traced, progress)
    files: dict[Path, bytes] = {}
    ranges = None
    if isinstance(told, Samples):
        with progress(f"take ranges from {len(told)} crops"):
            artefact = artefact_of(options, "routed", "fp32", network)
            told = take_ranges(traced, artefact, (one.lr for one in told), options.estimator)
        ranges = options.output / f"{artefact.label}_x{options.scale}_int8.ranges.json"
        files[ranges] = told.to_text().encode()
    lower = lowering(options, told, traced, network.weights_sha256)
    reference = Reference(network)
    forms = options.forms if flavour is None else tuple(dict.fromkeys((*options.forms, "routed")))
    graphs = [make_graph(options, form, lower, traced, reference, progress) for form in forms]
    if "routed" in forms and network.config.pure_pass:
        graphs.append(make_router(options, network, progress))
    published = [graph for graph in graphs if graph.exported.artefact.form in options.forms]
    if "routed" in options.forms:
        published += [graph for graph in graphs if graph.exported.artefact.form == "routing"]
    with progress("publish"):
        _publish(options.output, files | files_of(published))
    plan = None
    if flavour is not None:
        plan = _build_plans(options, flavour, graphs, progress, on_phase)
    return Export(tuple(graph.exported for graph in published), plan, ranges)


def _build_plans(
    options: ExportOptions,
    flavour: Flavour,
    graphs: Sequence[Graph],
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


def _publish(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write the files; no name appears before all of them are on the disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpsrError(f"cannot make the folder {folder}: {error.strerror}") from error
    with replacing_all(list(files)) as temporaries:
        for temporary, content in zip(temporaries, files.values(), strict=True):
            temporary.write_bytes(content)
