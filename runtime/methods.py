"""What ppsr-eval can measure, by the name a user gives it: bicubic, a model file, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.config import MODEL_NAMES, ModelName, PurePass
from ppsr.models.errors import BackendUnavailable, UsageError
from ppsr.models.registry import MODELS, names_routed

from .backend import Backend, Device
from .evaluation import Method
from .imresize import imresize
from .tiles import WHOLE
from .upscaler import CHECKPOINTS, ENGINES, Result, Upscaler, open_backend

BICUBIC, DEFAULT = "bicubic", "default"
ACCEPTED = (
    f"{BICUBIC}, {DEFAULT}, or a file that ends in .onnx, .plan, {', '.join(CHECKPOINTS[:-1])} "
    f"or {CHECKPOINTS[-1]}"
)


@dataclass(frozen=True)
class Options:
    """How methods are opened."""

    scale: int | None = None
    """None: the models say it."""
    model: ModelName = "pp-atd-light"
    """What a checkpoint is run as where no ``NAME:`` stands before it."""
    pure_pass: PurePass = field(default_factory=PurePass)
    """Routing of the checkpoints whose network the picture routes (pp-atd-light)."""
    ratio: float | None = None
    """Share of the windows that attend, of checkpoints run as camixer-atd-light; None: its own."""
    device: Device = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Request:
    """One method, not yet opened."""

    what: str
    """"bicubic", "default" or a path."""
    model: ModelName | None
    """What a checkpoint is run as; None for everything else."""
    pure_pass: PurePass | None
    """Routing; None for everything but a checkpoint whose network the picture routes."""
    ratio: float | None = None
    """Share of the windows that attend; None: its own, or there is none."""

    @property
    def path(self) -> Path | None:
        """The file; None where there is none."""
        return None if self.what in (BICUBIC, DEFAULT) else Path(self.what)

    @property
    def says_its_scale(self) -> bool:
        return self.path is not None

    def name(self, whole: bool = False) -> str:
        """Return how it is called in tables; ``whole`` keeps the folder of a file."""
        what = self.path.name if self.path and not whole else self.what
        parts = [what if self.model is None else f"{self.model}:{what}"]
        if self.pure_pass is not None:
            parts += [] if self.pure_pass.shift else ["no shift"]
            parts += [] if self.pure_pass.compensation else ["no compensation"]
        if self.ratio is not None:
            parts.append(f"ratio {self.ratio:g}")
        return ", ".join(parts)


def parse(text: str, options: Options) -> Request:
    """Read ``[NAME:]WHAT``. Raises UsageError for what is nothing to measure."""
    given: ModelName | None = None
    what = text
    for name in MODEL_NAMES:
        if text.startswith(f"{name}:"):
            given, what = name, text.removeprefix(f"{name}:")
    suffix = Path(what).suffix.lower()
    if what == DEFAULT or suffix in CHECKPOINTS:
        model = given or options.model
        routed = options.pure_pass if MODELS[model].routing == "index" else None
        return Request(what, model, routed, options.ratio if MODELS[model].has_ratio else None)
    if what != BICUBIC and suffix not in (".onnx", *ENGINES):
        raise UsageError(f"expected {ACCEPTED}, got {text}")
    if given is not None:
        raise UsageError(f"{given}: goes before a checkpoint only, got {text}")
    return Request(what, None, None)


def parse_all(texts: Sequence[str], options: Options) -> list[Request]:
    """Read all names. Raises UsageError where one is wrong, or where two mean the same."""
    requests = [parse(text, options) for text in texts]
    if len(set(requests)) < len(requests):
        raise UsageError(f"{texts[-1]} is given twice; name two models that differ")
    changed = options.pure_pass != PurePass()
    if changed and not any(request.pure_pass for request in requests):
        names = ", ".join(names_routed("index"))
        raise UsageError(f"--no-shift and --no-compensation need a checkpoint run as {names}")
    if options.ratio is not None and not any(request.ratio for request in requests):
        raise UsageError("--ratio needs a checkpoint of a network that has one (camixer-atd-light)")
    if options.scale is None and not any(request.says_its_scale for request in requests):
        raise UsageError(f"{requests[0].what} has no scale of its own; give one with --scale")
    return requests


@contextmanager
def opened(requests: Sequence[Request], options: Options) -> Iterator[tuple[int, list[Method]]]:
    """Open all methods -> the scale they share, and the methods in order; close them afterwards.

    Raises UsageError (CheckpointError, ArtefactError) or BackendUnavailable.
    """
    scale = options.scale
    names = [request.name() for request in requests]
    methods: dict[Request, Method] = {}
    with ExitStack() as stack:
        # Those that say their scale first: they say it for the others.
        for request in sorted(requests, key=lambda one: not one.says_its_scale):
            name = request.name(whole=names.count(request.name()) > 1)
            if request.what == BICUBIC:
                assert scale is not None
                identity = _identity(model=BICUBIC, device="CPU")
                methods[request] = Method(name, partial(bicubic, scale=scale), identity)
                continue
            upscaler = stack.enter_context(Upscaler(open_request(request, scale, options)))
            if scale not in (None, upscaler.scale):
                raise UsageError(
                    f"expected models for x{scale}, got one for x{upscaler.scale}: {request.what}; "
                    f"all models and --scale must agree"
                )
            scale = upscaler.scale
            methods[request] = Method(
                name, partial(upscaler.upscale, tiling=WHOLE), _described(request, upscaler)
            )
        assert scale is not None
        yield scale, [methods[request] for request in requests]


def bicubic(rgb: npt.NDArray[np.uint8], scale: int) -> Result:
    """Return MATLAB's bicubic enlargement, the baseline of every paper."""
    start = time.perf_counter()
    larger = imresize(rgb, scale)
    return Result(larger, None, (time.perf_counter() - start) * 1000, 0.0)


def open_request(request: Request, scale: int | None, options: Options) -> Backend:
    """Open a model file or a checkpoint, not bicubic. ``scale``: of a checkpoint that lacks it.

    Raises UsageError (CheckpointError, ArtefactError) or BackendUnavailable.
    """
    if request.model is None:
        return open_backend(Path(request.what), options.device, options.threads)
    try:
        from .eager import EagerBackend
    except ImportError as error:
        raise BackendUnavailable(
            "a checkpoint needs torch and safetensors: pip install 'ppsr[export]'"
        ) from error
    return EagerBackend(
        request.what,
        options.device,
        options.threads,
        model=request.model,
        scale=scale,
        pure_pass=request.pure_pass,
        ratio=request.ratio,
    )


def _described(request: Request, upscaler: Upscaler) -> dict[str, Any]:
    artefact = upscaler.artefact
    return _identity(
        model=artefact.model,
        file=str(request.path) if request.path else None,
        runs="network" if request.model else "exported model",
        precision=artefact.precision,
        form=None if request.model else artefact.form,
        weights_sha256=artefact.weights_sha256,
        pure_pass=artefact.pure_pass and asdict(artefact.pure_pass),
        ratio=artefact.ratio,
        device=upscaler.device,
    )


def _identity(**known: Any) -> dict[str, Any]:
    """The same keys for every method, in one order; null where one makes no sense."""
    keys = ("model", "runs", "file", "form", "precision", "weights_sha256", "pure_pass", "device")
    return {key: known.get(key) for key in (*keys, "ratio")}
