"""A TensorRT engine from a graph: parsed strongly typed, profiles set, built, its layers listed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from ppsr.models.errors import PpsrError
from ppsr.runtime.artefact import ACTIVE, INPUT
from ppsr.runtime.files import write_atomically
from ppsr.runtime.sidecar import Flavour, ShapeRange
from ppsr.runtime.tensorrt_log import first_line, make_logger

from .flavour import load_flavour
from .layers import LayerInfo

if TYPE_CHECKING:
    import onnx

OnPhase = Callable[[str, float], bool]
"""Told (phase, share done) by another thread; False stops the build."""


@dataclass(frozen=True)
class Built:
    """An engine and what it was built from."""

    plan: bytes
    layers: tuple[LayerInfo, ...]
    profiles: tuple[ShapeRange, ...]
    version: str
    """Of TensorRT."""


def build_plan(
    model: onnx.ModelProto,
    profiles: Sequence[ShapeRange],
    flavour: Flavour,
    on_phase: OnPhase = lambda _phase, _done: True,
    *,
    detailed: bool = False,
) -> Built:
    """Parse and build. Ctrl-C, or False from ``on_phase``, stops the build: KeyboardInterrupt.

    ``detailed`` keeps in the plan what ``tell_layers`` tells of it. Raises BackendUnavailable where
    the flavour is missing, PpsrError with TensorRT's own words where it does not take the graph or
    a profile.
    """
    trt = load_flavour(flavour)
    parsed = _Parsed(trt, flavour, model)
    config = parsed.builder.create_builder_config()
    # It keeps 10 bits of the mantissa: what is FP32 would not be.
    config.clear_flag(trt.BuilderFlag.TF32)
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for profile in profiles:
        if config.add_optimization_profile(parsed.profile(profile)) < 0:
            raise parsed.refused(f"take the profile {profile}")
    # TensorRT for RTX measures nothing ahead of time: its timing cache is empty and deprecated.
    cache = _TimingCache(trt, config) if flavour == "tensorrt" else None
    monitor = config.progress_monitor = _monitor(trt, on_phase)
    parsed.logger.said = ""
    plan = _stoppable(lambda: parsed.build(config), monitor)
    if plan is None:
        raise parsed.refused("build the engine")
    if cache is not None:
        cache.keep(config)
    return Built(bytes(plan), parsed.layers(), tuple(profiles), trt.__version__)


def list_layers(model: onnx.ModelProto, flavour: Flavour) -> tuple[LayerInfo, ...]:
    """Parse a graph and list its layers, without building. Raises as ``build_plan``."""
    return _Parsed(load_flavour(flavour), flavour, model).layers()


def tell_layers(plan: bytes, flavour: Flavour) -> Any:
    """Return what the engine inspector says of a plan, parsed from JSON. Needs a GPU.

    Raises PpsrError where the plan does not load, or nothing is told.
    """
    trt = load_flavour(flavour)
    logger = make_logger(trt)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise PpsrError(f"the engine does not load here ({logger.said or 'no reason'})")
    inspector = engine.create_engine_inspector()
    told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return json.loads(told)
    except ValueError as error:
        raise PpsrError(f"the engine inspector tells no JSON ({first_line(told)})") from error


class _Parsed:
    """A strongly typed network, and what must live as long as it does."""

    def __init__(self, trt: Any, flavour: Flavour, model: onnx.ModelProto) -> None:
        self._name = f"{flavour} {trt.__version__}"
        self.logger = make_logger(trt)
        self.builder = trt.Builder(self.logger)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        self._parser = trt.OnnxParser(self.network, self.logger)
        if not self._parser.parse(model.SerializeToString()):
            if self._parser.num_errors:
                self.logger.said = self._parser.get_error(0).desc()
            raise self.refused("take the graph")

    def refused(self, what: str) -> PpsrError:
        """Return the error of what TensorRT did not do, with its own words."""
        return PpsrError(f"{self._name} did not {what}: {self.logger.said or 'no reason'}")

    def build(self, config: Any) -> Any:
        """Return the plan, None where TensorRT has stopped or failed."""
        return self.builder.build_serialized_network(self.network, config)

    def profile(self, ranges: ShapeRange) -> Any:
        """Make an optimisation profile; ``tokens`` count where the network takes them."""
        profile = self.builder.create_optimization_profile()
        sizes = (ranges.min, ranges.opt, ranges.max)
        profile.set_shape(INPUT, *((1, 3, *size) for size in sizes))
        if ranges.tokens is not None:
            profile.set_shape(ACTIVE, *((count,) for count in ranges.tokens))
        return profile

    def layers(self) -> tuple[LayerInfo, ...]:
        """List the layers as they were parsed, before any is fused."""
        found = []
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            types = tuple(layer.get_output(i).dtype.name for i in range(layer.num_outputs))
            found.append(LayerInfo(layer.name, layer.type.name, types))
        return tuple(found)


def _stoppable(build: Callable[[], Any], monitor: Any) -> Any:
    """Run ``build`` beside this thread, which alone hears Ctrl-C and passes it on.

    Returns when the build has ended. Raises what ``build`` or ``on_phase`` raised, and
    KeyboardInterrupt where it was told to stop.
    """
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(build())
        except BaseException as error:
            monitor.error = monitor.error or error

    worker = Thread(target=work)
    while True:
        try:
            if worker.ident is None:
                worker.start()
            while worker.is_alive():
                worker.join(0.1)
            break
        except KeyboardInterrupt:
            monitor.interrupted = True
    if isinstance(monitor.error, RuntimeError):
        raise PpsrError(f"the build failed: {first_line(monitor.error)}") from monitor.error
    if monitor.error is not None:
        raise monitor.error
    if monitor.interrupted:
        raise KeyboardInterrupt
    return results[0]


def _monitor(trt: Any, on_phase: OnPhase) -> Any:
    """Pass progress on, and stop the build once ``interrupted`` is set or ``on_phase`` raises."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # The module is only known now.
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self.error: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = max(steps, 1)

        def step_complete(self, name: str, step: int) -> bool:
            share = min((step + 1) / self._steps.get(name, 1), 1.0)
            try:
                go_on = on_phase(name, share)
            except BaseException as error:  # It must not reach TensorRT, which called.
                self.error, go_on = error, False
            self.interrupted = self.interrupted or not go_on
            return not self.interrupted

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor()


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
