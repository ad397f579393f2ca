"""The export from end to end: trace, surgery, precision, verification, publication."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from ppsr.calibration.crops import sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.models.errors import PpsrError
from ppsr.runtime.artefact import Artefact, Form, Precision
from ppsr.runtime.files import replacing_all
from ppsr.runtime.sidecar import ShapeRange, Sidecar, sha256, sidecar_path
from ppsr.runtime.versions import installed, own_version

from .compose import join_front_end, write_metadata
from .naming import name_nodes
from .options import ExportOptions
from .precision import to_fp16
from .reference import Reference
from .surgery import run_passes
from .trace import trace_front_end, trace_network
from .verify import Parity, verify

Stage = tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto]]
Progress = Callable[[str], AbstractContextManager[None]]
"""Called with the name of each stage; what it returns is open while the stage runs."""

PACKAGES = ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu")
"""Whose versions the sidecar records."""

VERIFIED_SIZES = ((16, 16), (17, 40), (37, 50), (64, 64), (16, 280), (96, 130))
"""Height and width of the crops a fresh graph is run on: none is the traced size."""


@dataclass(frozen=True)
class Exported:
    """One published file."""

    path: Path
    artefact: Artefact
    parity: tuple[Parity, ...]
    """Empty where verification was skipped."""


def export_model(
    options: ExportOptions, progress: Progress = lambda _stage: nullcontext()
) -> list[Exported]:
    """Export, verify and publish every form asked for; all of them, or none.

    Raises CheckpointError for the weights, PrecisionError where FP16 cannot hold them, ParityError
    where a graph does not do what the network does, PpsrError where the disk refuses.
    """
    with progress("load weights"):
        network = build(options.model, options.scale, options.weights, pure_pass=options.pure_pass)
    with progress("trace the network"):
        traced = trace_network(network, options.opset)
    traced = _apply(
        [("name the nodes", name_nodes), ("graph surgery", run_passes)], traced, progress
    )

    reference = Reference(network)
    pictures = [crop.rgb for crop in sample_crops([("coffee", sample_photo())], VERIFIED_SIZES)]
    # The FP32 graph is made and judged for an FP16 export too: it has the tight bounds.
    precisions: Sequence[Precision] = ("fp32", "fp16") if options.fp16 else ("fp32",)
    made: list[tuple[Exported, bytes]] = []
    for form in options.forms:
        join = _joining(form, network, options, progress)
        for precision in precisions if options.verify else precisions[-1:]:
            artefact = _artefact(options, form, precision, network)
            halve: list[Stage] = [("precision fp16", to_fp16)] if precision == "fp16" else []
            describe: Stage = ("metadata", partial(write_metadata, artefact=artefact))
            model = _apply([*halve, *join, describe], traced, progress)
            parity: list[Parity] = []
            if options.verify:
                with progress(f"verify {form} {precision}"):
                    parity = verify(model, artefact, reference, pictures, options.atol)
        path = options.output / f"{artefact.stem}.onnx"
        made.append((Exported(path, artefact, tuple(parity)), model.SerializeToString()))
    with progress("publish"):
        _publish(options, made)
    return [exported for exported, _ in made]


def _apply(stages: Sequence[Stage], model: onnx.ModelProto, progress: Progress) -> onnx.ModelProto:
    for name, stage in stages:
        with progress(name):
            model = stage(model)
    return model


def _joining(form: Form, network: ATD, options: ExportOptions, progress: Progress) -> list[Stage]:
    """What makes a form of the network: nothing for the routed one."""
    if form == "routed":
        return []
    with progress("trace the front end"):
        front = name_nodes(trace_front_end(network, options.opset), root="front")
    return [("join the front end", partial(join_front_end, front_end=front, scale=options.scale))]


def _artefact(options: ExportOptions, form: Form, precision: Precision, network: ATD) -> Artefact:
    return Artefact(
        model=options.model,
        scale=options.scale,
        form=form,
        precision=precision,
        opset=options.opset,
        weights_sha256=network.weights_sha256,
        version=own_version(),
        pure_pass=network.config.pure_pass,
    )


def _publish(options: ExportOptions, made: Sequence[tuple[Exported, bytes]]) -> None:
    """Write every model and its sidecar; no name appears before all of them are on the disk."""
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpsrError(f"cannot make the folder {options.output}: {error.strerror}") from error
    contents: dict[Path, bytes] = {}
    for exported, data in made:
        sidecar = _sidecar(options, exported, data).to_text().encode()
        contents |= {exported.path: data, sidecar_path(exported.path): sidecar}
    with replacing_all(list(contents)) as temporaries:
        for temporary, content in zip(temporaries, contents.values(), strict=True):
            temporary.write_bytes(content)


def _sidecar(options: ExportOptions, exported: Exported, data: bytes) -> Sidecar:
    routed = exported.artefact.form == "routed"
    profile = options.profile
    return Sidecar(
        artefact=exported.artefact,
        onnx_sha256=sha256(data),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions=installed(PACKAGES),
        profiles=(ShapeRange(profile.min, profile.opt, profile.max),) if routed else (),
        parity=tuple(report.to_json() for report in exported.parity),
    )
