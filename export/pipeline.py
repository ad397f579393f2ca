"""The export from end to end: trace, surgery, precision, verification, publication."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import onnx

from ppsr.calibration.crops import sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.models.errors import PpsrError
from ppsr.runtime.artefact import Artefact, Form
from ppsr.runtime.files import replacing_all
from ppsr.runtime.versions import installed, own_version

from .compose import join_front_end, stamp
from .naming import name_nodes
from .options import ExportOptions
from .precision import to_fp16
from .surgery import PASSES, operate
from .trace import trace_front_end, trace_network
from .verify import Parity, verify

Stage = Callable[[onnx.ModelProto], onnx.ModelProto]
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

    Raises CheckpointError for the weights, ParityError where a graph does not do what the network
    does, PpsrError where the disk refuses.
    """
    with progress("load weights"):
        network = build(options.model, options.scale, options.weights)
    with progress("trace the network"):
        traced = trace_network(network, options.opset)
    for name, stage in _network_stages(options):
        with progress(name):
            traced = stage(traced)

    made: list[tuple[onnx.ModelProto, Artefact, tuple[Parity, ...]]] = []
    for form in options.forms:
        artefact = _artefact(options, form, network)
        model = traced
        for name, stage in _form_stages(options, artefact, network, progress):
            with progress(name):
                model = stage(model)
        parity: tuple[Parity, ...] = ()
        if options.verify:
            with progress(f"verify {form}"):
                crops = sample_crops([("coffee", sample_photo())], VERIFIED_SIZES)
                pictures = [crop.rgb for crop in crops]
                parity = tuple(verify(model, artefact, network, pictures, options.atol))
        made.append((model, artefact, parity))
    with progress("publish"):
        return _publish(options, made)


def _network_stages(options: ExportOptions) -> Iterator[tuple[str, Stage]]:
    """What is done to the traced network, whatever the form."""
    yield "name the nodes", name_nodes
    yield "graph surgery", partial(operate, passes=PASSES)
    if options.fp16:
        yield "precision fp16", to_fp16


def _form_stages(
    options: ExportOptions, artefact: Artefact, network: ATD, progress: Progress
) -> Iterator[tuple[str, Stage]]:
    """What makes one of the two forms of it."""
    if artefact.form == "self-contained":
        with progress("trace the front end"):
            front = name_nodes(trace_front_end(network, options.opset), root="front")
        yield "join the front end", partial(join_front_end, front_end=front, scale=options.scale)
    yield "stamp", partial(stamp, artefact=artefact)


def _artefact(options: ExportOptions, form: Form, network: ATD) -> Artefact:
    return Artefact(
        model=options.model,
        scale=options.scale,
        form=form,
        precision=options.precision,
        opset=options.opset,
        weights_sha256=network.weights_sha256,
        version=own_version(),
        pure_pass=network.config.pure_pass,
    )


def _publish(
    options: ExportOptions, made: list[tuple[onnx.ModelProto, Artefact, tuple[Parity, ...]]]
) -> list[Exported]:
    """Write every model and its sidecar; no name appears before all of them are on the disk."""
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PpsrError(f"cannot make the folder {options.output}: {error.strerror}") from error
    exported: list[Exported] = []
    contents: dict[Path, bytes] = {}
    for model, artefact, parity in made:
        path = options.output / f"{artefact.stem}.onnx"
        data = model.SerializeToString()
        sidecar = json.dumps(_sidecar(options, artefact, parity, data), indent=2, allow_nan=False)
        contents |= {path: data, sidecar_path(path): f"{sidecar}\n".encode()}
        exported.append(Exported(path, artefact, parity))
    with replacing_all(list(contents)) as temporaries:
        for temporary, content in zip(temporaries, contents.values(), strict=True):
            temporary.write_bytes(content)
    return exported


def sidecar_path(path: Path) -> Path:
    """Return where the description of a model file lies: ``<file>.json`` beside it."""
    return path.with_name(f"{path.name}.json")


def _sidecar(
    options: ExportOptions, artefact: Artefact, parity: tuple[Parity, ...], data: bytes
) -> dict[str, object]:
    return {
        **artefact.to_metadata(),
        "onnx_sha256": hashlib.sha256(data).hexdigest(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": installed(PACKAGES),
        "profiles": [asdict(options.profile)] if artefact.form == "routed" else [],
        "parity": [report.to_json() for report in parity],
    }
