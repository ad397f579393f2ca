"""A TensorRT engine from a graph: parsed strongly typed, profiles set, built, its layers listed.

The only file of ``export`` that imports TensorRT. Both flavours have one interface; TensorRT for
RTX builds without a GPU, TensorRT on the GPU that the engine is for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ppsr.models.errors import BackendUnavailable, PpsrError
from ppsr.runtime.artefact import ACTIVE, INPUT
from ppsr.runtime.files import write_atomically
from ppsr.runtime.sidecar import EXTRAS, FLAVOURS, MODULES, Flavour, ShapeRange

from .layers import LayerInfo
from .options import Target

if TYPE_CHECKING:
    import onnx

    from ppsr.runtime.cuda import Gpu

OnPhase = Callable[[str, float], bool]
"""Told (phase, share done); False stops the build."""


@dataclass(frozen=True)
class Built:
    """An engine and what it was built from."""

    plan: bytes
    layers: tuple[LayerInfo, ...]
    profiles: tuple[ShapeRange, ...]
    version: str
    """Of TensorRT."""


def choose_flavour(target: Target) -> Flavour | None:
    """Return what to build with; None: nothing, as asked, or because "auto" finds nothing.

    Raises BackendUnavailable where a flavour was asked for by name and cannot build here.
    """
    if target == "onnx":
        return None
    if target == "auto":
        return next((flavour for flavour in FLAVOURS if _why_not(flavour) is None), None)
    if reason := _why_not(target):
        raise BackendUnavailable(reason)
    return target


def why_no_engine(target: Target) -> str:
    """Say in one line why an export ends with ONNX files."""
    if target == "onnx":
        return "No engine was built, as asked (--target onnx)."
    return f"No engine was built: {_why_not('tensorrt-rtx')}"


def _why_not(flavour: Flavour) -> str | None:
    """Say why a flavour cannot build here, None where it can; it is not imported for that."""
    if not find_spec(MODULES[flavour]):
        return f"{flavour} is not installed: pip install 'ppsr[{EXTRAS[flavour]}]'"
    if flavour == "tensorrt" and gpu_at_hand() is None:
        return (
            "tensorrt builds on the GPU that the engine is for, and there is none here; "
            "--target tensorrt-rtx builds without one"
        )
    return None


def gpu_at_hand() -> Gpu | None:
    """Return the GPU of this machine, None where there is none or cuda-bindings is missing."""
    try:
        from ppsr.runtime import cuda
    except ImportError:
        return None
    return None if cuda.probe() else cuda.first_gpu()


def load_flavour(flavour: Flavour) -> Any:
    """Import a TensorRT. Raises BackendUnavailable with the line that installs it."""
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of it is missing.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BackendUnavailable(
            f"{flavour} cannot be imported ({reason}): pip install 'ppsr[{EXTRAS[flavour]}]'"
        ) from error


def build_plan(
    model: onnx.ModelProto,
    profiles: Sequence[ShapeRange],
    flavour: Flavour,
    on_phase: OnPhase = lambda _phase, _done: True,
) -> Built:
    """Parse and build. Ctrl-C, or False from ``on_phase``, stops the build: KeyboardInterrupt.

    Raises BackendUnavailable where the flavour is missing, PpsrError with TensorRT's own words
    where it does not take the graph or a profile.
    """
    trt = load_flavour(flavour)
    parsed = _Parsed(trt, flavour, model)
    builder, network = parsed.builder, parsed.network
    config = builder.create_builder_config()
    monitor = _monitor(trt, on_phase)
    config.progress_monitor = monitor
    for profile in profiles:
        config.add_optimization_profile(_profile(builder, network, profile))
    # TensorRT for RTX measures nothing ahead of time: its timing cache is empty and deprecated.
    cache = _TimingCache(trt, config) if flavour == "tensorrt" else None
    plan = _stoppable(lambda: builder.build_serialized_network(network, config), monitor)
    if plan is None:
        reason = parsed.logger.said or "no reason"
        raise PpsrError(f"{flavour} {trt.__version__} did not build the engine: {reason}")
    if cache is not None:
        cache.keep(config)
    return Built(bytes(plan), parsed.layers(), tuple(profiles), trt.__version__)


def list_layers(model: onnx.ModelProto, flavour: Flavour) -> tuple[LayerInfo, ...]:
    """Parse a graph and list its layers, without building. Raises as ``build_plan``."""
    return _Parsed(load_flavour(flavour), flavour, model).layers()


def tell_layers(plan: bytes, flavour: Flavour) -> Any:
    """Return what the engine inspector says of a plan, parsed from JSON. Needs a GPU.

    Raises PpsrError where the plan does not load.
    """
    trt = load_flavour(flavour)
    logger = _logger(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise PpsrError(f"the engine does not load here ({logger.said or 'no reason'})")
    inspector = engine.create_engine_inspector()
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _stoppable(build: Callable[[], Any], monitor: Any) -> Any:
    """Run ``build`` beside this thread, which alone hears Ctrl-C and passes it on.

    Raises KeyboardInterrupt once a build that was told to stop has stopped.
    """
    results: list[Any] = []
    worker = Thread(target=lambda: results.append(build()), daemon=True)
    worker.start()
    while worker.is_alive():
        try:
            worker.join(0.1)
        except KeyboardInterrupt:
            monitor.interrupted = True
    if monitor.interrupted:
        raise KeyboardInterrupt
    return results[0] if results else None


def _profile(builder: Any, network: Any, ranges: ShapeRange) -> Any:
    profile = builder.create_optimization_profile()
    sizes = (ranges.min, ranges.opt, ranges.max)
    shapes: dict[str, list[tuple[int, ...]]] = {INPUT: [(1, 3, *size) for size in sizes]}
    if ranges.tokens is not None:
        shapes[ACTIVE] = [(count,) for count in ranges.tokens]
    known = {network.get_input(i).name for i in range(network.num_inputs)}
    for name, (low, best, high) in shapes.items():
        if name in known:
            profile.set_shape(name, low, best, high)
    return profile


class _Parsed:
    """A strongly typed network, and what must live as long as it does."""

    def __init__(self, trt: Any, flavour: Flavour, model: onnx.ModelProto) -> None:
        self.logger = _logger(trt)
        self.builder = trt.Builder(self.logger)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        self._parser = trt.OnnxParser(self.network, self.logger)
        if not self._parser.parse(model.SerializeToString()):
            errors = self._parser.num_errors
            first = self._parser.get_error(0).desc() if errors else self.logger.said
            raise PpsrError(f"{flavour} {trt.__version__} does not take the graph: {first}")

    def layers(self) -> tuple[LayerInfo, ...]:
        found = []
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            types = tuple(layer.get_output(i).dtype.name for i in range(layer.num_outputs))
            found.append(LayerInfo(layer.name, layer.type.name, types))
        return tuple(found)


class _TimingCache:
    """What earlier builds measured, kept in the user's cache folder; an aid, never a condition."""

    def __init__(self, trt: Any, config: Any) -> None:
        self._path = cache_folder() / f"timing-{trt.__version__}.cache"
        data = b""
        with suppress(OSError):
            data = self._path.read_bytes()
        self._cache = config.create_timing_cache(data) or config.create_timing_cache(b"")
        if self._cache is not None:
            config.set_timing_cache(self._cache, ignore_mismatch=False)

    def keep(self, config: Any) -> None:
        """Write it back; a cache that cannot be written is no error."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        with suppress(OSError, PpsrError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, bytes(cache.serialize()))


def cache_folder() -> Path:
    """Return the user's cache folder of ppsr: ``XDG_CACHE_HOME`` or the platform's own."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ppsr"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "ppsr"
    return Path.home() / ".cache" / "ppsr"


def _logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps the first error."""

    class Log(trt.ILogger):  # type: ignore[misc]  # The module is only known now.
        def __init__(self) -> None:
            super().__init__()
            self.said = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and not self.said:
                self.said = str(message).strip().splitlines()[0][:300]

    return Log()


def _monitor(trt: Any, on_phase: OnPhase) -> Any:
    """Pass progress on, and stop the build once ``interrupted`` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # As above.
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = max(steps, 1)

        def step_complete(self, name: str, step: int) -> bool:
            share = min((step + 1) / self._steps.get(name, 1), 1.0)
            if not on_phase(name, share):
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor()
