"""From a plan file to a loaded engine: everything that is checked before its code may run.

The only file that imports TensorRT, whichever flavour the plan says. The driver has been probed
before anything here is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ppsr.models.errors import ArtefactError, BackendUnavailable, PpsrError

from .cuda import Gpu
from .sidecar import (
    EXTRAS,
    FLAVOURS,
    MODULES,
    Flavour,
    Plan,
    Sidecar,
    read_sidecar,
    sha256,
    sidecar_path,
)
from .tensorrt_log import first_line, make_logger


@dataclass
class Loaded:
    """An engine in memory, and what must live as long as it does."""

    path: Path
    trt: Any
    """The module of its flavour."""
    log: Any
    """An ``ILogger`` whose ``said`` is the first error since it was last set to "", its start."""
    runtime: Any
    engine: Any
    sidecar: Sidecar | None
    """None for a plan that was trusted without one."""

    def close(self) -> None:
        """Drop the engine before the runtime that made it."""
        self.engine = None
        self.runtime = None

    def refused(self, what: str) -> PpsrError:
        """Return the error of a call that TensorRT did not carry out, with its own words."""
        return PpsrError(f"TensorRT refused {what} ({self.log.said or 'it says nothing'})")

    def tensors(self) -> dict[str, str]:
        """Return the type of every input and output, as "FLOAT" or "INT64"."""
        names = map(self.engine.get_tensor_name, range(self.engine.num_io_tensors))
        return {name: self.engine.get_tensor_dtype(name).name for name in names}

    def require_tensors(self, expected: Mapping[str, str]) -> None:
        """Raise ArtefactError unless these are its inputs and outputs."""
        found = self.tensors()
        if found != expected:
            raise ArtefactError(
                f"{self.path} is not the engine it says: expected the tensors {_spelt(expected)}, "
                f"got {_spelt(found)}; export it again"
            )


def load_plan(path: Path, gpu: Gpu, trust: bool = False) -> Loaded:
    """Load the plan ``path`` for ``gpu``. The bytes that are hashed are the ones that are loaded.

    Raises ArtefactError for a file that is no plan, is not the one its sidecar describes, or has
    none (unless ``trust``); BackendUnavailable where its flavour is not installed, or the version
    or the GPU is another one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"cannot read {path}: {error.strerror}") from error
    sidecar = read_sidecar(path)
    if sidecar is None:
        if not trust:
            raise ArtefactError(
                f"{path} has no description beside it ({sidecar_path(path).name}), and a plan is "
                "code: export it again, or run it with ppsr-run --trust if you built it yourself"
            )
        return _load_any(path, data)
    plan = _described(path, data, sidecar)
    trt = _import(plan.flavour, path)
    _require_fitting(path, plan, trt.__version__, gpu)
    loaded = _deserialise(trt, path, data, sidecar)
    if loaded.engine is None:
        raise BackendUnavailable(
            f"{path} does not load on {gpu.name} with {plan.flavour} {trt.__version__} "
            f"({loaded.log.said or 'it does not say why'}); export it again on this machine"
        )
    return loaded


def _described(path: Path, data: bytes, sidecar: Sidecar) -> Plan:
    """Return what the sidecar says of the plan. Raises ArtefactError where it means another."""
    plan = sidecar.plan
    if plan is None:
        raise ArtefactError(
            f"{sidecar_path(path)} does not describe an engine; export the engine again"
        )
    found = sha256(data)
    if found != plan.sha256:
        raise ArtefactError(
            f"{path} is not the file that {sidecar_path(path).name} describes: expected SHA-256 "
            f"{plan.sha256[:12]}, got {found[:12]}; export it again"
        )
    return plan


def _require_fitting(path: Path, plan: Plan, version: str, gpu: Gpu) -> None:
    """Raise BackendUnavailable where the plan was built by another version, or for another GPU."""
    if version != plan.flavour_version:
        raise BackendUnavailable(
            f"{path} was built by {plan.flavour} {plan.flavour_version}, but {version} is "
            f"installed; export it again, or pip install {plan.flavour}=={plan.flavour_version}"
        )
    bound = (
        (plan.gpu_name, gpu.name, ""),
        (plan.compute_capability, gpu.compute_capability, "compute capability "),
    )
    for expected, found, what in bound:
        if expected not in (None, found):
            raise BackendUnavailable(
                f"{path} was built for {what}{expected}, but this GPU is {what}{found}; "
                "export it again on this machine"
            )


def _load_any(path: Path, data: bytes) -> Loaded:
    """Load a plan of unknown flavour: the first installed one that takes it."""
    installed = [flavour for flavour in FLAVOURS if find_spec(MODULES[flavour])]
    if not installed:
        raise BackendUnavailable(
            f"{path} needs TensorRT, which is not installed: pip install 'ppsr[rtx]' "
            "(or 'ppsr[tensorrt]')"
        )
    reasons, started = [], False
    for flavour in installed:
        try:
            loaded = _deserialise(_import(flavour, path), path, data, None)
        except BackendUnavailable as error:  # The next may take it.
            reasons.append(str(error))
            continue
        if loaded.engine is not None:
            return loaded
        started = True
        reasons.append(f"{flavour}: {loaded.log.said or 'no reason'}")
    if not started:
        raise BackendUnavailable("; ".join(reasons))
    raise ArtefactError(
        f"{path} is no plan that can be loaded here ({'; '.join(reasons)}); export it again"
    )


def _import(flavour: Flavour, path: Path) -> Any:
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of it is missing or damaged.
        raise BackendUnavailable(
            f"{path} needs {flavour}, which cannot be imported ({first_line(error)}): "
            f"pip install 'ppsr[{EXTRAS[flavour]}]'"
        ) from error


def _deserialise(trt: Any, path: Path, data: bytes, sidecar: Sidecar | None) -> Loaded:
    """Load the bytes; ``engine`` is None where TensorRT does not take them.

    ``engine_host_code_allowed`` stays off, as it is.
    """
    log = make_logger(trt)
    try:
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(data)
    except (RuntimeError, TypeError) as error:  # pybind11's, where a constructor fails.
        raise BackendUnavailable(
            f"{trt.__name__} {trt.__version__} does not start ({log.said or first_line(error)})"
        ) from error
    return Loaded(path, trt, log, runtime, engine, sidecar)


def _spelt(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(tensors.items()))
