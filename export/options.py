"""What an export is asked for, checked before anything slow begins."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ppsr.calibration.estimators import ESTIMATORS
from ppsr.models.config import MODEL_NAMES, SCALES, ModelName, PurePass
from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import GRID
from ppsr.models.registry import MODELS, require_settings
from ppsr.runtime.artefact import Form, Precision, Tuning
from ppsr.runtime.sidecar import ShapeRange, Size

FORMS: tuple[Form, ...] = ("self-contained", "routed")
"""What can be asked for; a routing comes with the routed form."""
OPSETS = (20, 21, 22)
"""20 is the first with Gelu as one operator; 23 asks for a newer file format than engines read."""
ATTENTION_OPSET = 23
"""The first with Attention as one operator, which graphs for onnxruntime hold."""

Target = Literal["auto", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
TARGETS: tuple[Target, ...] = get_args(Target)
CPU_TARGETS = ("onnxruntime", "openvino")

ACTIVE_SHARE = 0.6
"""Of the pixels, at the optimum of a profile: photographs of B100 have about 40 % pure pixels."""


def _up(size: int) -> int:
    return -(-size // GRID) * GRID


@dataclass(frozen=True)
class Profile:
    """The sizes an engine is built for: valid from ``min`` to ``max``, tuned for ``opt``.

    Rounded up to multiples of 16. Raises UsageError where they are not in order.
    """

    min: Size = (64, 64)
    opt: Size = (368, 640)
    max: Size = (1088, 1920)

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            height, width = getattr(self, name)
            if height < 1 or width < 1:
                raise UsageError(f"expected a {name} shape of at least 1x1, got {height}x{width}")
            object.__setattr__(self, name, (_up(height), _up(width)))
        if not all(a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=True)):
            spelt = ", ".join(f"{h}x{w}" for h, w in (self.min, self.opt, self.max))
            raise UsageError(f"expected min <= opt <= max shapes at each side, got {spelt}")

    def shape_range(self, takes_active: bool) -> ShapeRange:
        """Add the number of active tokens: none, the usual share of ``opt``, all of ``max``."""
        tokens = (0, round(ACTIVE_SHARE * math.prod(self.opt)), math.prod(self.max))
        return ShapeRange(self.min, self.opt, self.max, tokens if takes_active else None)


DEFAULT_PROFILES = (
    Profile(min=(16, 16), opt=(192, 320), max=(512, 512)),
    Profile(min=(32, 32), opt=(544, 960), max=(1088, 1920)),
    Profile(min=(32, 32), opt=(960, 544), max=(1920, 1088)),
)
"""Small pictures, landscape and portrait ones up to full HD."""

SMALLER_PROFILES = (
    DEFAULT_PROFILES[0],
    Profile(min=(32, 32), opt=(368, 640), max=(720, 1280)),
    Profile(min=(32, 32), opt=(640, 368), max=(1280, 720)),
)
"""The same up to HD, for networks whose engines take no more (``Model.most_pixels``)."""


@dataclass(frozen=True)
class ExportOptions:
    """Raises UsageError for what cannot be exported."""

    scale: int = 2
    model: ModelName = "pp-atd-light"
    weights: str | Path | None = "default"
    """A .pth or .safetensors file of the network; None: random ones, the same every time."""
    fp16: bool = False
    int8: bool = False
    """All layers but ``Model.kept_from_int8``; needs ``calibration`` or ``data``."""
    calibration: Path | None = None
    """A file of activation ranges that an earlier export has written."""
    data: Path | None = None
    """Ground-truth pictures, a folder or a file, to take the ranges from."""
    estimator: str = "mse"
    """How a range follows from what ``data`` shows, one of ``estimators.ESTIMATORS``."""
    recipe: Path | None = None
    """A file of ppsr-calibrate: each layer in a precision of its own."""
    form: Form | Literal["both"] = "both"
    opset: int | None = None
    """None: the first of ``OPSETS``, or what graphs for onnxruntime need."""
    output: Path = Path("artifacts")
    atol: float = 1e-5
    """Largest difference allowed in FP32, on equal categories (docs/parity.md)."""
    verify: bool = True
    """False: publish without a run."""
    target: Target = "auto"
    """"onnx": files for any runtime; "onnxruntime", "openvino": files that are fastest there, on
    the CPU, where the network has such a graph. A flavour of TensorRT: files for any runtime, and
    an engine from the routed one; "auto": where a flavour is there."""
    profiles: tuple[Profile, ...] = DEFAULT_PROFILES
    """Of the engine; they go into the sidecar of the routed form too."""
    inspect: bool = False
    """Write ``<plan>.layers.json``: every layer with its precision."""
    pure_pass: PurePass | None = None
    """Replaces the paper's routing; for "pp-atd-light" only."""
    ratio: float | None = None
    """Share of the windows that attend; for "camixer-atd-light" only. None: its default."""

    def __post_init__(self) -> None:
        _require("scale", self.scale, SCALES)
        _require("model", self.model, MODEL_NAMES)
        _require("form", self.form, ("both", *FORMS))
        _require("target", self.target, TARGETS)
        if self.inspect and not self.may_build:
            raise UsageError(f"expected an engine to inspect, got the target {self.target}")
        self._require_one_precision()
        if self.precision != "fp32" and self.target in CPU_TARGETS:
            raise UsageError(
                f"expected no {self.precision} for the target {self.target}, which is for CPUs: "
                "they compute in FP32 (OpenVINO also in BF16, chosen when the file is run); leave "
                "it out, or take the target onnx"
            )
        if not self.profiles:
            raise UsageError("expected at least one profile, got none")
        if not 0 < self.atol < math.inf:
            raise UsageError(f"expected an atol above 0, got {self.atol}")
        if self.opset is not None:
            _require("opset", self.opset, self._opsets)
        require_settings(self.model, self.scale, self.pure_pass, self.ratio)
        self._require_fitting_profiles()
        if self.weights == "":
            raise UsageError("expected the path of a weights file, got an empty one")
        _require_folder(self.output)

    def _require_fitting_profiles(self) -> None:
        """Take smaller default profiles where needed; raise UsageError for given ones too large."""
        most = MODELS[self.model].most_pixels
        if most is None:
            return
        if self.profiles == DEFAULT_PROFILES:
            object.__setattr__(self, "profiles", SMALLER_PROFILES)
        for profile in self.profiles:
            if math.prod(profile.max) > most:
                height, width = profile.max
                raise UsageError(
                    f"expected a max shape of at most {most} pixels for {self.model}, which "
                    f"chooses among {most // GRID**2} windows at most in an engine, got "
                    f"{height}x{width}; give a smaller --max-shape"
                )

    def _require_one_precision(self) -> None:
        """Raise UsageError for options that ask for two precisions, or for half of one."""
        _require("estimator", self.estimator, ESTIMATORS)
        asked = [
            name for name in ("fp16", "int8", "recipe") if getattr(self, name) not in (False, None)
        ]
        if len(asked) > 1:
            raise UsageError(f"expected one precision, got {' and '.join(asked)}; leave one out")
        sources = [name for name in ("calibration", "data") if getattr(self, name) is not None]
        if self.int8 and len(sources) != 1:
            raise UsageError(
                "expected int8 to come with ranges, calibration FILE, or with data DIR to take "
                f"them from, got {' and '.join(sources) or 'neither'}"
            )
        if sources and not self.int8:
            raise UsageError(f"{sources[0]} is for int8; add it, or leave {sources[0]} out")

    @property
    def precision(self) -> Precision:
        """What the files are made in."""
        if self.recipe is not None:
            return "mixed"
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"

    @property
    def tuning(self) -> Tuning:
        """What the graphs are made for: any runtime where the network has no others."""
        if self.target == "onnxruntime" or self.target == "openvino":
            return self.target if self.target in MODELS[self.model].cpu else "any"
        return "any"

    def opset_of(self, form: Form) -> int:
        """Of a graph of this form. The routing is the same for all runtimes."""
        opsets = OPSETS if form == "routing" else self._opsets
        return self.opset if self.opset in opsets else opsets[0]

    @property
    def _opsets(self) -> tuple[int, ...]:
        return (ATTENTION_OPSET,) if self.tuning == "onnxruntime" else OPSETS

    @property
    def may_build(self) -> bool:
        """Whether an engine is wanted, if only where one can be built."""
        return self.target not in ("onnx", *CPU_TARGETS)

    @property
    def forms(self) -> tuple[Form, ...]:
        return FORMS if self.form == "both" else (self.form,)


def _require(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UsageError(
            f"expected {name} to be one of {', '.join(map(str, allowed))}, got {value!r}"
        )


def _require_folder(path: Path) -> None:
    """Raise UsageError unless ``path`` is, or can be made, a folder to write to."""
    try:
        folder = path
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            return
        found = "cannot be written to" if folder.is_dir() else "is a file"
    except OSError as error:
        folder, found = path, f"cannot be used: {error.strerror}"
    raise UsageError(f"expected a folder to write to, {folder} {found}")
