"""A TensorRT engine from a graph: parsed strongly typed, profiles set, built, its layers listed.

The only file of ``export`` that imports TensorRT. Both flavours have one interface; TensorRT for
RTX builds without a GPU, TensorRT on the GPU that the engine is for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from ppsr.models.errors import BackendUnavailable, PpsrError
from ppsr.runtime.artefact import ACTIVE, INPUT
from ppsr.runtime.files import write_atomically
from ppsr.runtime.sidecar import EXTRAS, FLAVOURS, MODULES, Flavour, ShapeRange

OnPhase = Callable[[str, float], bool]
"""Told (phase, share done); False stops the build."""


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the strongly typed network: the types of its outputs are its precision."""

    name: str
    kind: str
    """As TensorRT calls it: "MATRIX_MULTIPLY"."""
    outputs: tuple[str, ...]
    """Types: "HALF", "FLOAT", "INT32" ..."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Built:
    """An engine and what it was built from."""

    plan: bytes
    layers: tuple[LayerInfo, ...]
    version: str
    """Of TensorRT."""


def installed_flavour() -> Flavour | None:
    """Return the flavour to build with, of those installed; None where there is none."""
    return next((flavour for flavour in FLAVOURS if find_spec(MODULES[flavour])), None)


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
    """Parse and build. Ctrl-C, or False from ``on_phase``, stops the build.

    Raises BackendUnavailable where the flavour is missing, PpsrError with TensorRT's own words
    where it does not take the graph or a profile.
    """
    trt = load_flavour(flavour)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        first = parser.get_error(0).desc() if parser.num_errors else logger.said
        raise PpsrError(f"{flavour} {trt.__version__} does not take the graph: {first}")
    config = builder.create_builder_config()
    monitor = _monitor(trt, on_phase)
    config.progress_monitor = monitor
    for profile in profiles:
        config.add_optimization_profile(_profile(builder, network, profile))
    cache = _TimingCache(trt, config, flavour)
    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise PpsrError(
            f"{flavour} {trt.__version__} did not build the engine: {logger.said or 'no reason'}"
        )
    cache.keep(config)
    return Built(bytes(plan), tuple(_layers(network)), trt.__version__)


def _profile(builder: Any, network: Any, ranges: ShapeRange) -> Any:
    profile = builder.create_optimization_profile()
    shapes = {INPUT: [(1, 3, *size) for size in (ranges.min, ranges.opt, ranges.max)]}
    if ranges.tokens is not None:
        shapes[ACTIVE] = [(count,) for count in ranges.tokens]
    known = {network.get_input(i).name for i in range(network.num_inputs)}
    for name, (low, best, high) in shapes.items():
        if name in known:
            profile.set_shape(name, low, best, high)
    return profile


def _layers(network: Any) -> list[LayerInfo]:
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        types = tuple(layer.get_output(i).dtype.name for i in range(layer.num_outputs))
        found.append(LayerInfo(layer.name, layer.type.name, types))
    return found


class _TimingCache:
    """What earlier builds measured, kept in the user's cache folder; an aid, never a condition."""

    def __init__(self, trt: Any, config: Any, flavour: Flavour) -> None:
        self._path = cache_folder() / f"timing-{flavour}-{trt.__version__}.cache"
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
    """Pass the progress of the outermost phase on; an exception there stops the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # As above.
        def __init__(self) -> None:
            super().__init__()
            self.interrupted = False
            self._steps: dict[str, int] = {}
            self._outer: str | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = max(steps, 1)
            if parent is None:
                self._outer = name

        def step_complete(self, name: str, step: int) -> bool:
            try:
                go_on = on_phase(name, min((step + 1) / self._steps.get(name, 1), 1.0))
            except KeyboardInterrupt:
                go_on = False
            self.interrupted = self.interrupted or not go_on
            return go_on

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor()
