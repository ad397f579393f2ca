"""From a checkpoint to verified ONNX files. Needs the extras ``export`` and ``cpu`` or ``gpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppsr.models.errors import BackendUnavailable, UsageError

__all__ = ["export"]


def export(scale: int = 2, **options: Any) -> list[Path]:
    """Export a model and return the paths of the files, as ``ppsr-export`` does.

    options: the fields of ``ppsr.export.options.ExportOptions``: model, weights, fp16, form, opset,
    output, atol, verify, profile. Raises UsageError, BackendUnavailable where an extra is missing,
    ParityError where a graph does not do what the network does.
    """
    from .options import ExportOptions

    if "output" in options:
        options["output"] = Path(options["output"])
    try:
        checked = ExportOptions(scale=scale, **options)
    except TypeError as error:
        raise UsageError(str(error)) from None
    return [made.path for made in load_pipeline().export_model(checked)]


def load_pipeline() -> Any:
    """Import the pipeline, or say which extra is missing."""
    try:
        from . import pipeline
    except ImportError as error:
        raise BackendUnavailable(
            f"exporting needs the package {(error.name or str(error)).split('.')[0]}: "
            "pip install 'ppsr[export,cpu]'"
        ) from error
    return pipeline
