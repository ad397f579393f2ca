"""Which TensorRT builds: TensorRT for RTX needs no GPU, TensorRT the one that the engine is for.

The only file of ``export`` that imports either; both have one interface.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ppsr.models.errors import BackendUnavailable
from ppsr.runtime.sidecar import EXTRAS, FLAVOURS, MODULES, Flavour
from ppsr.runtime.tensorrt_log import first_line

from .options import Target

if TYPE_CHECKING:
    from ppsr.runtime.cuda import Gpu


def choose_flavour(target: Target) -> Flavour | None:
    """Return what to build with; None: nothing, as asked, or because "auto" finds nothing.

    Raises BackendUnavailable where a flavour was asked for by name and cannot build here.
    """
    if target == "tensorrt" or target == "tensorrt-rtx":
        _require(target)
        return target
    if target != "auto":
        return None
    for flavour in FLAVOURS:
        try:
            _require(flavour)
        except BackendUnavailable:
            continue
        return flavour
    return None


def why_no_engine(target: Target) -> str:
    """Say in one line why an export ends with ONNX files."""
    if target != "auto":
        return f"No engine was built, as asked (--target {target})."
    try:
        _require("tensorrt-rtx")
    except BackendUnavailable as error:
        return f"No engine was built: {error}"
    return "No engine was built."


def load_flavour(flavour: Flavour) -> Any:
    """Import a TensorRT. Raises BackendUnavailable with the line that installs it."""
    install = f"pip install 'ppsr[{EXTRAS[flavour]}]'"
    if not find_spec(MODULES[flavour]):
        raise BackendUnavailable(f"{flavour} is not installed: {install}")
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of it is missing.
        raise BackendUnavailable(
            f"{flavour} cannot be imported ({first_line(error)}): {install}"
        ) from error


def gpu_at_hand() -> Gpu | None:
    """Return the GPU of this machine, None where there is none that can be used."""
    try:
        from ppsr.runtime import cuda

        return None if cuda.probe() else cuda.first_gpu()
    except (ImportError, BackendUnavailable):  # No cuda-bindings; a GPU that is silent.
        return None


def _require(flavour: Flavour) -> None:
    load_flavour(flavour)
    if flavour == "tensorrt" and gpu_at_hand() is None:
        raise BackendUnavailable(
            "tensorrt builds on the GPU that the engine is for, and none can be used here; "
            "--target tensorrt-rtx builds without one"
        )
