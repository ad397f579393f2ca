"""From a checkpoint to verified ONNX files. Needs the extras ``export`` and ``cpu`` or ``gpu``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ppsr.models.errors import BackendUnavailable

if TYPE_CHECKING:
    from ppsr.models.config import ModelName, PurePass
    from ppsr.runtime.artefact import Form

    from .options import Profile

__all__ = ["export"]


def export(
    scale: int = 2,
    *,
    model: ModelName = "pp-atd-light",
    weights: str | Path | None = "default",
    fp16: bool = False,
    form: Form | Literal["both"] = "both",
    opset: int = 20,
    output: str | Path = "artifacts",
    atol: float = 1e-5,
    verify: bool = True,
    profile: Profile | None = None,
    pure_pass: PurePass | None = None,
) -> list[Path]:
    """Export a model and return the paths of the files, as ``ppsr-export`` does.

    The arguments are the fields of ``ppsr.export.options.ExportOptions``; ``profile`` None is the
    default one. Raises UsageError, CheckpointError for the weights, BackendUnavailable where an
    extra is missing, PrecisionError where FP16 cannot hold the weights, ParityError where a graph
    does not do what the network does.
    """
    from .options import ExportOptions, Profile

    options = ExportOptions(
        scale=scale,
        model=model,
        weights=weights,
        fp16=fp16,
        form=form,
        opset=opset,
        output=Path(output),
        atol=atol,
        verify=verify,
        profile=profile or Profile(),
        pure_pass=pure_pass,
    )
    return [made.path for made in load_pipeline().export_model(options)]


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
