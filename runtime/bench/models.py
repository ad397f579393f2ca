"""The models of one measurement: opened together, named apart, comparable where they must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ppsr.models.errors import ArtefactError, UsageError
from ppsr.models.registry import MODELS, names_routed
from ppsr.runtime.backend import Device
from ppsr.runtime.open_model import open_model, shown_name, without_device
from ppsr.runtime.sidecar import read_sidecar, sha256
from ppsr.runtime.upscaler import Upscaler

BACKENDS = {
    "EagerBackend": "torch",
    "OrtBackend": "onnxruntime",
    "OvBackend": "OpenVINO",
    "TrtBackend": "TensorRT",
}
"""What users call them; any other goes by the name of its class."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model and what it is called here."""

    given: str
    """What the user wrote."""
    name: str
    """Unique among the models of a measurement, without folders."""
    upscaler: Upscaler

    @property
    def warm_up(self) -> int:
        """How many runs are not counted: the second run of a size records an engine's graph."""
        return 1 if self.upscaler.device.startswith("CPU") else 2

    @property
    def backend(self) -> str:
        """What runs it: "onnxruntime", "OpenVINO", "TensorRT", "torch"."""
        kind = type(self.upscaler.backend).__name__
        return BACKENDS.get(kind, kind.removesuffix("Backend"))

    def to_json(self) -> dict[str, Any]:
        """Return the identity. Hashes are null where there is no file, or no description of it."""
        artefact = self.upscaler.artefact
        own, onnx = _hashes(Path(without_device(self.given)))
        return {
            "name": self.name,
            "stem": artefact.stem,
            "backend": self.backend,
            "device": self.upscaler.device,
            "model": artefact.model,
            "scale": artefact.scale,
            "form": artefact.form,
            "precision": artefact.precision,
            "tuned_for": artefact.tuned_for,
            "opset": artefact.opset,
            "version": artefact.version,
            "weights_sha256": artefact.weights_sha256,
            "file_sha256": own,
            "onnx_sha256": onnx,
        }


@contextmanager
def opened(
    names: Sequence[str],
    dense: str | None,
    device: Device = "auto",
    threads: int | None = None,
    scale: int | None = None,
) -> Iterator[tuple[list[Model], Model | None]]:
    """Open all models, ``dense`` last, and close them afterwards.

    Raises UsageError as ``open_model`` and, where there is a dense one, ``require_comparable`` do.
    """
    given = [*names, *([] if dense is None else [dense])]
    called = _apart([click.format_filename(shown_name(name)) for name in given])
    with ExitStack() as stack:
        models = []
        for name, label in zip(given, called, strict=True):
            upscaler = stack.enter_context(open_model(name, device, threads, scale=scale))
            models.append(Model(name, label, upscaler))
        against = None if dense is None else models.pop()
        for model in models if against is not None else []:
            assert against is not None
            require_comparable(model.upscaler, against.upscaler)
        yield models, against


def require_comparable(masked: Upscaler, dense: Upscaler) -> None:
    """Raise UsageError where more than the mask tells the two models apart.

    They share scale, weights, precision, form, tuning and device; ``masked`` has Pure-Pass,
    ``dense`` not.
    """
    a, b = masked.artefact, dense.artefact
    for what, first, second, option in (
        ("scale", f"x{a.scale}", f"x{b.scale}", "the same --scale"),
        ("weights", a.weights_sha256[:12], b.weights_sha256[:12], "the same --weights"),
        ("precision", a.precision, b.precision, "--fp16, or both without it"),
        ("form", a.form, b.form, "the same --form"),
        ("tuning", a.tuned_for, b.tuned_for, "the same --target"),
        (
            "device",
            masked.device,
            dense.device,
            "the same --target, and run both with one --device",
        ),
    ):
        if first != second:
            raise UsageError(
                f"expected two models of the same {what}, got {first} and {second}; "
                f"export both with {option}"
            )
    if a.pure_pass is None or MODELS[b.model].routing != "none":
        raise UsageError(
            f"expected a masked model against a dense one, got {a.model} against {b.model}; "
            f"export the dense one with --model {names_routed('none')[0]} and name it after "
            "--against"
        )


def _apart(names: Sequence[str]) -> list[str]:
    """Number the names that occur before: a, b, a (2)."""
    seen = [names[:at].count(name) + 1 for at, name in enumerate(names)]
    return [name if n == 1 else f"{name} ({n})" for name, n in zip(names, seen, strict=True)]


def _hashes(path: Path) -> tuple[str | None, str | None]:
    """Return the SHA-256 of the file, and of the ONNX file it is or was built from."""
    try:
        own = sha256(path.read_bytes())
    except (OSError, ValueError):
        return None, None
    if path.suffix.lower() == ".onnx":
        return own, own
    try:
        beside = read_sidecar(path)
    except ArtefactError:
        beside = None
    return own, None if beside is None else beside.onnx_sha256
