"""Verifying what was published: an artefact against the network, or against another artefact."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ppsr.calibration.crops import sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.models.errors import PpsrError, UsageError
from ppsr.runtime.backend import Device, require_options
from ppsr.runtime.dataset import PictureSet, find_sets, read_ground_truth
from ppsr.runtime.evaluation import require_measurable
from ppsr.runtime.files import check_target, is_one_of, write_atomically
from ppsr.runtime.imresize import degrade
from ppsr.runtime.memory import budget, require_memory
from ppsr.runtime.metrics import psnr
from ppsr.runtime.ort import ERRORS, one_line
from ppsr.runtime.sidecar import Sidecar, Size, read_sidecar, sha256, sidecar_path
from ppsr.runtime.upscaler import CHECKPOINTS
from ppsr.runtime.versions import installed

from .claims import read_described, require_comparable, require_identity
from .contestants import Contestant, EagerContestant, FileContestant, GraphContestant, Rgb, Run
from .graphs import PACKAGES as EXPORT_PACKAGES
from .plans import now
from .proof import MAX_PSNR_DROP, Figures, Proof, compare

SIZES: Sequence[Size] = ((64, 64), (96, 132), (128, 192), (52, 240), (200, 264))
"""Height and width of the crops of the sample photo that are the ground truth by default."""
PACKAGES = ("ppsr", "numpy", "cuda-bindings", "openvino", *EXPORT_PACKAGES)


@dataclass(frozen=True)
class VerifyOptions:
    """What ppsr-verify is asked. Raises UsageError for what no run could do."""

    artefact: Path
    """A model file, ``.onnx`` or ``.plan``."""
    reference: Path | None = None
    """Another model file, or a checkpoint; None: the eager network with ``weights``."""
    weights: str | Path | None = None
    """The checkpoint of the eager network; None: the shipped one."""
    data: tuple[Path, ...] = ()
    """Ground truth, folders and pictures; none: crops of the sample photo."""
    max_psnr_drop: float | None = None
    """dB; None: what ``proof.MAX_PSNR_DROP`` has for the precision."""
    device: Device = "auto"
    """Of model files. The eager network always runs on the CPU."""
    threads: int | None = None
    record: bool = True
    """Whether the figures go into the sidecar."""

    def __post_init__(self) -> None:
        require_options(self.device, self.threads)
        drop = self.max_psnr_drop
        if drop is not None and not (math.isfinite(drop) and drop >= 0):
            raise UsageError(f"expected a PSNR drop of 0 dB or more, got {drop:g}")
        if self.reference is None:
            return
        if is_one_of(self.artefact, [self.reference]):
            raise UsageError(f"{self.reference} is the artefact itself; name another file")
        if self.weights is not None:
            raise UsageError("--weights is for the network in torch; give it or a REFERENCE")


def reprove(
    options: VerifyOptions, on_picture: Callable[[str], object] = lambda _name: None
) -> Proof:
    """Run every picture through artefact and reference, compare, and record what was found.

    ``on_picture`` is told the name of each picture before it runs. What is found not good enough
    is in ``Proof.failure``, and no error. Raises ParityError where a sidecar describes another
    file, UsageError (ArtefactError, CheckpointError, PictureError) for what cannot be compared or
    measured, BackendUnavailable where a package or device is missing, PpsrError where something
    fails at run time.
    """
    path = options.artefact
    data, sidecar = read_described(path)
    if sidecar is not None and options.record:
        try:
            check_target(sidecar_path(path))
        except UsageError as error:
            raise UsageError(f"{error}; --no-record leaves it alone") from error
    sets = _sets(options.data)
    with ExitStack() as stack:
        ours = _open(path, data, options)
        stack.callback(ours.close)
        require_identity(path, ours.artefact, sidecar)
        theirs, its_hash = _open_reference(options, ours)
        stack.callback(theirs.close)
        require_measurable(sets, ours.artefact.scale)
        figures: list[Figures] = []
        file_psnr = None
        for name, truth in _pictures(sets):
            on_picture(name)
            one, expected, small = _run_both(name, truth, ours, theirs)
            figures.append(one)
        if isinstance(ours, GraphContestant) and not figures[-1].not_finite:
            output = _attempt(ours.file, small, figures[-1].picture).output
            file_psnr = psnr(output.astype(np.float64), expected.output.astype(np.float64))
    precision = "bf16" if options.device == "openvino-bf16" else ours.artefact.precision
    limit = options.max_psnr_drop
    proof = Proof(
        artefact=_identity(ours, sha256(data)),
        reference=_identity(theirs, its_hash),
        precision=precision,
        max_psnr_drop=MAX_PSNR_DROP[precision] if limit is None else limit,
        figures=tuple(figures),
        file_psnr=file_psnr,
        about={
            "date": now(),
            "versions": {"python": platform.python_version(), **installed(PACKAGES)},
            "data": [one.name for one in sets] or ["crops of the sample photo"],
            "device": options.device,
            "threads": options.threads,
        },
        notes=_notes(path, sidecar, options),
    )
    if sidecar is not None and options.record:
        _record(path, sidecar, proof)
    return proof


def _open(path: Path, data: bytes, options: VerifyOptions) -> GraphContestant | FileContestant:
    # OpenVINO shows no categories: what it runs is judged by its pictures, as an engine is.
    if path.suffix.lower() != ".onnx" or options.device.startswith("openvino"):
        return FileContestant(path, options.device, options.threads)
    return GraphContestant(path, data, options.device, options.threads)


def _open_reference(options: VerifyOptions, ours: Contestant) -> tuple[Contestant, str | None]:
    """Return the reference and the hash of its file; None for the eager network."""
    path = options.reference
    if path is None or path.suffix.lower() in CHECKPOINTS:
        weights = path or options.weights or "default"
        return EagerContestant(ours.artefact, weights, options.threads), None
    data, sidecar = read_described(path)
    theirs = _open(path, data, options)
    try:
        require_identity(path, theirs.artefact, sidecar)
        require_comparable(options.artefact, ours.artefact, path, theirs.artefact)
    except PpsrError:
        theirs.close()
        raise
    return theirs, sha256(data)


def _run_both(
    name: str, rgb: Rgb, ours: Contestant, theirs: Contestant
) -> tuple[Figures, Run, Rgb]:
    """Shrink ground truth and run both -> what came, the reference's run, what both were fed."""
    scale = ours.artefact.scale
    small, truth = degrade(rgb, scale)
    size = (small.shape[0], small.shape[1])
    fed = _at_least(small, ours.least, theirs.least)
    padded = (fed.shape[0], fed.shape[1])
    require_memory(padded, padded, scale, budget())
    mine, expected = _attempt(ours, fed, name), _attempt(theirs, fed, name)
    if not np.isfinite(expected.output).all():
        raise PpsrError(f"{theirs.name} itself returns values that are not finite on {name}")
    masked = ours.artefact.pure_pass is not None
    figures = compare(name, truth, size, scale, mine, expected, masked)
    judged = figures.mask_agreement in (None, 1) and not figures.not_finite
    if judged and isinstance(ours, GraphContestant) and isinstance(theirs, EagerContestant):
        figures = replace(figures, same=theirs.compare(ours.graph, fed, ours.got))
    return figures, expected, fed


def _attempt(runs: Contestant, rgb: Rgb, name: str) -> Run:
    try:
        return runs.run(rgb)
    except ERRORS as error:
        raise PpsrError(f"{runs.name} failed on {name}: {one_line(error)}") from error


def _at_least(small: Rgb, *sizes: Size) -> Rgb:
    """Mirror a picture at the bottom and right to what both take: they must see the same."""
    height, width = (max(sides) for sides in zip(small.shape[:2], *sizes, strict=True))
    more = ((0, height - small.shape[0]), (0, width - small.shape[1]), (0, 0))
    return np.pad(small, more, mode="symmetric")


def _sets(data: Sequence[Path]) -> list[PictureSet]:
    """Find all ground truth: folders, and files as sets of one. Raises UsageError."""
    files = [path for path in data if path.is_file()]
    if len({path.resolve() for path in files}) < len(files):
        raise UsageError("a picture is given twice; name each picture once")
    singles = [PictureSet(path.name, path.parent, (path,)) for path in files]
    return [*find_sets(path for path in data if path not in files), *singles]


def _pictures(sets: Sequence[PictureSet]) -> Iterator[tuple[str, Rgb]]:
    """Yield ground truth with its name: of a folder ``set/picture``."""
    for one in sets:
        for path in one.paths:
            name = path.relative_to(one.folder).as_posix()
            yield name if name == one.name else f"{one.name}/{name}", read_ground_truth(path)
    if not sets:
        for crop in sample_crops([("coffee", sample_photo())], SIZES):
            yield f"{crop.source} {crop.top},{crop.left}", crop.rgb


def _identity(runs: Contestant, file_hash: str | None) -> dict[str, Any]:
    artefact = runs.artefact
    eager = isinstance(runs, EagerContestant)
    return {
        "name": runs.name,
        "model": artefact.model,
        "scale": artefact.scale,
        "form": None if eager else artefact.form,
        "precision": "fp32" if eager else artefact.precision,
        "weights_sha256": artefact.weights_sha256,
        "sha256": file_hash,
        "device": runs.device,
    }


def _notes(path: Path, sidecar: Sidecar | None, options: VerifyOptions) -> tuple[str, ...]:
    if sidecar is None:
        name = sidecar_path(path).name
        return (f"there is no {name}: no hash was compared, and the figures are not recorded",)
    return () if options.record else ("the figures are not recorded, as asked",)


def _record(path: Path, sidecar: Sidecar, proof: Proof) -> None:
    """Write the figures into the sidecar. Raises PpsrError where it is not what it was."""
    if read_sidecar(path) != sidecar:
        raise PpsrError(f"{sidecar_path(path)} changed meanwhile; verify the file again")
    told = replace(sidecar, verification=proof.to_json())
    write_atomically(sidecar_path(path), told.to_text().encode())
