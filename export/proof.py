"""What a verification found, picture by picture, and whether that is enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import ParityError
from ppsr.models.registry import MODELS, Routing
from ppsr.runtime.metrics import psnr, psnr_y, ssim_y
from ppsr.runtime.sidecar import Size

from .contestants import Run
from .options import ExportOptions
from .reference import changed
from .verify import Parity, min_psnr

Rgb = npt.NDArray[np.uint8]
MAX_PSNR_DROP: Mapping[str, float] = {
    **{"fp32": 0.01, "fp16": 0.02, "bf16": 0.02},
    **{"mixed": 0.05, "int8": 0.3},
}
"""dB that an artefact may lose against ground truth, on average, by its precision; "mixed": what
ppsr-calibrate allows unless told otherwise."""
ATOL = ExportOptions.atol
"""Largest FP32 difference on equal categories, as the export allows it."""


@dataclass(frozen=True)
class Quality:
    """One output against ground truth, as ppsr-eval measures: luma, border left out."""

    psnr_y: float
    """dB; inf where they are equal, nan where the output holds values that are no numbers."""
    ssim_y: float


@dataclass(frozen=True)
class Figures:
    """One picture through the artefact and the reference."""

    picture: str
    size: Size
    """H W of the input."""
    psnr: float
    """dB between the outputs, RGB, neither clamped nor rounded; inf where they are equal."""
    max_abs: float
    """Largest difference between the outputs."""
    not_finite: int
    """Values of the artefact's output that are infinite or no numbers."""
    reference: Quality
    artefact: Quality
    mask_agreement: float | None
    """Share of the padded picture's pixels that both route alike; None without Pure-Pass."""
    flipped: float | None
    """Share of choices, such as the categories of active tokens, that differ; None: unknown."""
    same: Parity | None = None
    """The check on equal categories, a graph against the network only."""

    @property
    def drop(self) -> float:
        """What the artefact loses against ground truth, dB; 0 where both are equal, inf and all."""
        theirs, ours = self.reference.psnr_y, self.artefact.psnr_y
        return 0.0 if theirs == ours else theirs - ours

    @property
    def ssim_drop(self) -> float:
        """The same of SSIM."""
        return self.reference.ssim_y - self.artefact.ssim_y

    def failure(self, precision: str, routing: Routing = "none") -> str | None:
        """Say what is wrong with this picture, or None. What it loses is judged over all.

        routing: of the network.
        """
        if self.not_finite:
            return f"{self.not_finite} values of the output are not finite, expected none"
        if self.mask_agreement is not None and self.mask_agreement < 1:
            share = 1 - self.mask_agreement
            return f"{share:.2g} of its pixels are routed otherwise than by the reference, not 0"
        # FP32 too: ties alone leave down to some 50 dB (docs/parity.md).
        if not self.psnr >= (needed := min_psnr(precision, routing)):
            return f"outputs agree to {self.psnr:.1f} dB, needed are {needed:g}"
        if self.same is not None and (problem := self.same.failure(precision, ATOL, routing)):
            return f"on equal categories {problem}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Spell it for JSON, which has no inf and no nan: null."""
        return {
            "picture": self.picture,
            "size": list(self.size),
            "psnr": _number(self.psnr),
            "max_abs": _number(self.max_abs),
            "not_finite": self.not_finite,
            "psnr_y": _both(self.reference.psnr_y, self.artefact.psnr_y, self.drop),
            "ssim_y": _both(self.reference.ssim_y, self.artefact.ssim_y, self.ssim_drop),
            "mask_agreement": self.mask_agreement,
            "flipped": self.flipped,
            "equal_categories": self.same and {k: _number(v) for k, v in vars(self.same).items()},
        }


@dataclass(frozen=True)
class Proof:
    """All pictures, and how the verification ended."""

    artefact: Mapping[str, Any]
    """Which file, network, precision and device; hashes."""
    reference: Mapping[str, Any]
    """The same of what it was compared with."""
    precision: str
    max_psnr_drop: float
    figures: tuple[Figures, ...]
    file_psnr: float | None
    """dB between the very file's output, as ppsr-run runs it, and the reference's, on the last
    picture; None for an engine, whose every figure is the file's, and where a picture failed."""
    about: Mapping[str, Any]
    """Date, versions, pictures, options."""
    notes: tuple[str, ...] = ()

    @property
    def failure(self) -> str | None:
        """Say in one sentence which figure misses what, or None."""
        routing = MODELS[self.artefact["model"]].routing
        for one in self.figures:
            if problem := one.failure(self.precision, routing):
                return f"{one.picture}: {problem}"
        if not self.drop <= self.max_psnr_drop:
            return (
                f"PSNR against the truth is {self.drop:.4f} dB lower on average, "
                f"allowed is {self.max_psnr_drop:g}"
            )
        needed = min_psnr(self.precision, routing)
        if self.file_psnr is not None and not self.file_psnr >= needed:
            return f"the file itself agrees to {self.file_psnr:.1f} dB, needed are {needed:g}"
        return None

    @property
    def drop(self) -> float:
        """Mean of the pictures' drops, dB."""
        return fmean(one.drop for one in self.figures)

    @property
    def ssim_drop(self) -> float:
        """Mean of what the pictures lose in SSIM."""
        return fmean(one.ssim_drop for one in self.figures)

    def overall(self) -> dict[str, Any]:
        """Return the worst of what must be small, the means of what is judged on average.

        As ``to_json`` spells numbers: one that is no number makes its total null too.
        """
        masks = [f.mask_agreement for f in self.figures if f.mask_agreement is not None]
        flipped = [f.flipped for f in self.figures if f.flipped is not None]
        same = [f.same.max_abs for f in self.figures if f.same is not None]
        return {
            "pictures": len(self.figures),
            "psnr_least": _number(float(np.min([f.psnr for f in self.figures]))),
            "max_abs": _number(float(np.max([f.max_abs for f in self.figures]))),
            "not_finite": sum(f.not_finite for f in self.figures),
            "psnr_y": self._means("psnr_y", self.drop),
            "ssim_y": self._means("ssim_y", self.ssim_drop),
            "mask_agreement_least": min(masks, default=None),
            "flipped_most": max(flipped, default=None),
            "equal_categories_max_abs": _number(float(np.max(same))) if same else None,
            "file_psnr": _number(self.file_psnr),
        }

    def _means(self, name: str, drop: float) -> dict[str, float | None]:
        reference = fmean(getattr(one.reference, name) for one in self.figures)
        return _both(reference, fmean(getattr(one.artefact, name) for one in self.figures), drop)

    def to_json(self) -> dict[str, Any]:
        """Spell it for JSON: also what goes into the sidecar."""
        return {
            **self.about,
            "passed": self.failure is None,
            "failure": self.failure,
            "max_psnr_drop": self.max_psnr_drop,
            "reference": dict(self.reference),
            "overall": self.overall(),
            "rows": [one.to_json() for one in self.figures],
        }


def compare(
    name: str, truth: Rgb, small: Size, scale: int, ours: Run, theirs: Run, masked: bool
) -> Figures:
    """Compare two runs of one picture with each other and with ground truth.

    truth: uint8 S*H S*W 3, the outputs of the runs may reach beyond it; small: H W. Raises
    ParityError where the two choose in different places, or one names a token twice.
    """
    height, width = truth.shape[:2]
    mine, other = (run.output[:height, :width].astype(np.float64) for run in (ours, theirs))
    not_finite = int((~np.isfinite(mine)).sum())
    with np.errstate(invalid="ignore", over="ignore"):
        max_abs, between = float(np.abs(mine - other).max()), psnr(mine, other)
    return Figures(
        picture=name,
        size=small,
        psnr=between,
        max_abs=max_abs,
        not_finite=not_finite,
        reference=_quality(other, truth, scale),
        artefact=_quality(mine, truth, scale),
        mask_agreement=_agreement(ours, theirs) if masked else None,
        flipped=_flipped(ours, theirs),
    )


def _quality(output: npt.NDArray[Any], truth: Rgb, scale: int) -> Quality:
    if not np.isfinite(output).all():
        return Quality(math.nan, math.nan)
    floats = output.astype(np.float32)  # As ppsr-run rounds.
    pixels = np.rint(floats.clip(0, 1) * np.float32(255)).astype(np.uint8)
    return Quality(psnr_y(pixels, truth, scale), ssim_y(pixels, truth, scale))


def _agreement(ours: Run, theirs: Run) -> float:
    """Tokens in one list only are routed otherwise."""
    apart = len(np.setxor1d(ours.active, theirs.active))
    if not apart and not np.array_equal(ours.active, theirs.active):
        raise ParityError("expected active tokens in rising order, once each, got others")
    return 1 - apart / ours.tokens


def _flipped(ours: Run, theirs: Run) -> float | None:
    if ours.choices is None or theirs.choices is None:
        return None
    mine, other = len(ours.choices), len(theirs.choices)
    if ours.choices.keys() != theirs.choices.keys():
        raise ParityError(f"expected {other} places where choices are made, the graph has {mine}")
    if not np.array_equal(ours.active, theirs.active):
        return None
    return changed(ours.choices, theirs.choices) / max(1, sum(map(len, ours.choices.values())))


def _both(reference: float, artefact: float, drop: float) -> dict[str, float | None]:
    numbers = {"reference": reference, "artefact": artefact, "drop": drop}
    return {name: _number(value) for name, value in numbers.items()}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
