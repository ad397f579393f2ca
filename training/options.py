"""What a training run is told, as one value that is kept in its folder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ppsr.models.config import MODEL_NAMES, SCALES, ModelName
from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import GRID
from ppsr.models.registry import MODELS, require_settings
from ppsr.runtime.backend import Device

Precision = Literal["fp32", "tf32", "bf16"]
OptimiserName = Literal["muon", "adamw"]


@dataclass(frozen=True)
class TrainOptions:
    """One run. Raises UsageError for values that make no run."""

    scale: int = 2
    model: ModelName = "pp-atd-light"
    ratio: float | None = None
    """Share of the windows that attend; for "camixer-atd-light" only. None: its default."""
    data: str = "."
    """Folder of ground-truth pictures."""
    validation: str | None = None
    """Folder of ground-truth pictures that are never trained on."""
    init: str = "default"
    """"default" (the shipped weights), "bicubic" (from nothing) or the path of a checkpoint."""
    steps: int | None = None
    minutes: float | None = None
    """Length of the run: one of both. Resumed runs count on."""
    patch: int = 32
    """Side of a low-resolution patch, a multiple of 16."""
    batch: int = 8
    draws: int = 2
    """Random crops looked at for each patch; the most textured one is taken."""
    optimiser: OptimiserName = "muon"
    rate: float = 1e-3
    """Peak learning rate."""
    warm_up: int = 100
    """Steps in which the rate rises from 0."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    average: float = 0.998
    """Decay of the exponential moving average of the weights."""
    precision: Precision = "bf16"
    device: Device = "auto"
    compile: bool = False
    threads: int | None = None
    seed: int = 0
    log_every: int = 20
    """Steps between two rows of the log."""
    validate_minutes: float = 10.0
    save_seconds: float = 60.0
    """At least this long between two saves."""
    validation_side: int = 64
    """Validation takes the middle of each picture, at most this many low-resolution pixels a side:
    comparable from run to run, and quick."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("expected one of --steps and --minutes; give the run a length")
        allowed = (
            (self.scale in SCALES, f"--scale of {SCALES}", self.scale),
            (self.model in MODEL_NAMES, f"--model of {MODEL_NAMES}", self.model),
            (self.steps is None or self.steps > 0, "--steps above 0", self.steps),
            (
                self.minutes is None or 0 < self.minutes < math.inf,
                "--minutes above 0",
                self.minutes,
            ),
            (
                self.patch > 0 and self.patch % GRID == 0,
                f"--patch, a multiple of {GRID}",
                self.patch,
            ),
            (self.batch > 0, "--batch above 0", self.batch),
            (self.optimiser in get_args(OptimiserName), "--optimiser", self.optimiser),
            (self.draws > 0, "--draws above 0", self.draws),
            (0 < self.rate < math.inf, "--rate above 0", self.rate),
            (self.warm_up >= 0, "--warm-up of 0 or more", self.warm_up),
            (0 <= self.average < 1, "--average in [0, 1)", self.average),
            (self.clip > 0, "--clip above 0", self.clip),
            (self.precision in get_args(Precision), "--precision", self.precision),
            (self.seed >= 0, "--seed of 0 or more", self.seed),
        )
        for fine, expected, found in allowed:
            if not fine:
                raise UsageError(f"expected {expected}, got {found}")
        require_settings(self.model, self.scale, None, self.ratio)
        if self.init == "default" and MODELS[self.model].shipped is None:
            raise UsageError(
                f"no weights of {self.model} are shipped; take --init bicubic, or a checkpoint"
            )

    def to_dict(self) -> dict[str, Any]:
        """Spell the options as plain values; ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainOptions:
        return cls(**{**values, "betas": tuple(values["betas"])})
