"""What is said of a model file, by its sidecar and its metadata, and whether it is true."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ppsr.models.errors import ParityError, UsageError
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.files import require_readable
from ppsr.runtime.sidecar import Sidecar, read_sidecar, sha256, sidecar_path
from ppsr.runtime.upscaler import ENGINES

SHARED = ("model", "scale", "weights_sha256", "pure_pass", "ratio")
"""What two artefacts must have in common to be compared: form and precision may differ."""


def read_described(path: Path) -> tuple[bytes, Sidecar | None]:
    """Read a model file and its sidecar, None where there is none -> the bytes that were hashed.

    Raises ArtefactError where one cannot be read or the sidecar is something else, ParityError
    where the sidecar describes another file.
    """
    require_readable(path)
    data = path.read_bytes()
    sidecar = read_sidecar(path)
    if sidecar is None:
        return data, None
    is_engine = path.suffix.lower() in ENGINES
    if (sidecar.plan is not None) != is_engine:
        kinds = ("an engine", "an ONNX file")
        raise _another(path, *(kinds if is_engine else kinds[::-1]))
    expected = sidecar.onnx_sha256 if sidecar.plan is None else sidecar.plan.sha256
    found = sha256(data)
    if found != expected:
        raise _another(path, f"SHA-256 {found[:12]}", f"SHA-256 {expected[:12]}")
    return data, sidecar


def require_identity(path: Path, artefact: Artefact, sidecar: Sidecar | None) -> None:
    """Raise ParityError where the file says something else of itself than its sidecar."""
    if sidecar is None:
        return
    for field in fields(Artefact):
        found, said = getattr(artefact, field.name), getattr(sidecar.artefact, field.name)
        if found != said:
            raise _another(path, f"{field.name} {found}", f"{field.name} {said}")


def require_comparable(path: Path, artefact: Artefact, other: Path, reference: Artefact) -> None:
    """Raise UsageError unless ``reference`` is the same network, in any form and precision."""
    for key in SHARED:
        wanted, found = getattr(artefact, key), getattr(reference, key)
        if wanted != found:
            cut = 12 if key == "weights_sha256" else None
            raise UsageError(
                f"{other} is no reference for {path}: expected {key} {str(wanted)[:cut]}, "
                f"got {str(found)[:cut]}; name another export of the same network"
            )


def _another(path: Path, found: str, described: str) -> ParityError:
    return ParityError(
        f"{sidecar_path(path)} describes another file: {path.name} has {found}, expected is "
        f"{described}; put back the sidecar it was published with, or export it again"
    )
