"""From a checkpoint to verified ONNX files and TensorRT engines.

Needs the extras ``export`` and ``cpu`` or ``gpu``; for engines ``rtx`` or ``tensorrt`` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ppsr.models.errors import BackendUnavailable

if TYPE_CHECKING:
    from ppsr.models.config import ModelName, PurePass
    from ppsr.runtime.artefact import Form

    from .options import Profile, Target

__all__ = ["export"]


def export(
    scale: int = 2,
    *,
    model: ModelName = "pp-atd-light",
    weights: str | Path | None = "default",
    fp16: bool = False,
    int8: bool = False,
    calibration: str | Path | None = None,
    data: str | Path | None = None,
    estimator: str = "mse",
    recipe: str | Path | None = None,
    form: Form | Literal["both"] = "both",
    opset: int | None = None,
    output: str | Path = "artifacts",
    atol: float = 1e-5,
    verify: bool = True,
    target: Target = "auto",
    profiles: Sequence[Profile] | None = None,
    inspect: bool = False,
    pure_pass: PurePass | None = None,
    ratio: float | None = None,
) -> list[Path]:
    """Export a model and return the paths of the files, as ``ppsr-export`` does.

    The arguments are the fields of ``ppsr.export.options.ExportOptions``; ``profiles`` None are
    the default ones. Raises UsageError, CheckpointError for the weights, BackendUnavailable where
    an extra or the ``target`` is missing, PrecisionError where FP16 cannot hold the weights or INT8
    lacks a range, ParityError where a graph does not do what the network does, PpsrError where
    TensorRT or the disk refuses.
    """
    from .options import DEFAULT_PROFILES, ExportOptions

    options = ExportOptions(
        scale=scale,
        model=model,
        weights=weights,
        fp16=fp16,
        int8=int8,
        calibration=None if calibration is None else Path(calibration),
        data=None if data is None else Path(data),
        estimator=estimator,
        recipe=None if recipe is None else Path(recipe),
        form=form,
        opset=opset,
        output=Path(output),
        atol=atol,
        verify=verify,
        target=target,
        profiles=DEFAULT_PROFILES if profiles is None else tuple(profiles),
        inspect=inspect,
        pure_pass=pure_pass,
        ratio=ratio,
    )
    return list(load_pipeline().export_model(options).paths)


def load_pipeline() -> Any:
    """Import the pipeline, or say which extra is missing."""
    return _load("pipeline", "exporting")


def load_reproof() -> Any:
    """Import what ppsr-verify needs, or say which extra is missing."""
    return _load("reproof", "verifying")


def load_calibrate() -> Any:
    """Import what ppsr-calibrate needs, or say which extra is missing."""
    return _load("calibrate", "calibrating")


def _load(name: str, purpose: str) -> Any:
    try:
        return import_module(f".{name}", __name__)
    except ImportError as error:
        raise BackendUnavailable(
            f"{purpose} needs the package {(error.name or str(error)).split('.')[0]}: "
            "pip install 'ppsr[export,cpu]'"
        ) from error
