"""How good a candidate is on samples: against ground truth, and against the network in FP32."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.runtime.artefact import ACTIVE, OUTPUT
from ppsr.runtime.backend import Backend
from ppsr.runtime.feed import feed_for
from ppsr.runtime.metrics import luma, psnr_y

from .samples import Sample

FLOOR = 1 / 12
"""Squared error of rounding to 8 bits, in steps of 8 bits: no error counts as less. A flat picture
that comes out exact would have a PSNR of inf, and its smallest error the whole budget."""
CEILING = 10 * math.log10(255**2 / FLOOR)
"""The PSNR of that, dB."""
TO_LUMA = luma(255 * np.eye(3, dtype=np.uint8)[None])[0] - luma(np.zeros((1, 1, 3), np.uint8))
"""What red, green and blue of 1 add to the luma. float64 1 3."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be chosen."""

    backend: Backend
    categories: Sequence[str] = ()
    """Arrays among what ``run`` returns that hold the category of every token, by layer."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a candidate made of one sample."""

    output: npt.NDArray[np.float32]
    """float32 S*H S*W 3 in [0, 1]; values that are no numbers have become -1."""
    categories: tuple[npt.NDArray[np.uint16], ...]
    """By layer: the category of each active token; of every one where the model is told none."""


@dataclass(frozen=True)
class Score:
    """A candidate on some samples: one number for each of them, in their order."""

    psnr_y: tuple[float, ...]
    """dB against ground truth: luma of the output in 8 bits, unrounded; at most ``CEILING``."""
    error: tuple[float, ...]
    """Mean squared error of Y against ground truth, before 8 bits; at least ``FLOOR``."""
    noise: tuple[float, ...]
    """Mean squared difference of Y from the output in FP32: what adds up to ``error``."""
    difference: tuple[float, ...]
    """The same of RGB in [0, 1]."""
    flipped: float | None
    """Share of active tokens, over all samples and layers, in another category than in FP32; None
    where no categories were told."""

    @property
    def mean_psnr_y(self) -> float:
        return fmean(self.psnr_y)

    @property
    def mean_error(self) -> float:
        """Of all samples, as if they were parts of one picture."""
        return fmean(self.error)

    @property
    def mean_noise(self) -> float:
        """The same of the noise."""
        return fmean(self.noise)

    @property
    def psnr(self) -> float:
        """dB between the outputs and those in FP32, over all samples; inf where they are equal."""
        mean = fmean(self.difference)
        return -10 * math.log10(mean) if mean else math.inf


def runs(candidate: Candidate, samples: Iterable[Sample]) -> Iterator[Seen]:
    """Run a candidate on one sample after the other; it is closed in the end, however that comes.

    Raises PpsrError where the model fails.
    """
    try:
        for sample in samples:
            yield _run(candidate, sample.lr)
    finally:
        candidate.backend.close()


def score(samples: Iterable[Sample], seen: Iterable[Seen], reference: Iterable[Seen]) -> Score:
    """Compare what a candidate made of the samples with ground truth and with FP32."""
    columns: list[tuple[float, ...]] = []
    changed = asked = 0
    for sample, ours, theirs in zip(samples, seen, reference, strict=True):
        scale = sample.hr.shape[0] // sample.lr.shape[0]
        pixels = np.rint(ours.output.clip(0, 1) * np.float32(255)).astype(np.uint8)
        output = ours.output.astype(np.float64)
        wrong, apart = output - sample.hr / 255, output - theirs.output
        columns.append(
            (
                min(CEILING, psnr_y(pixels, sample.hr, scale, rounded=False)),
                max(FLOOR, _mean_square(wrong @ TO_LUMA[0])),
                _mean_square(apart @ TO_LUMA[0]),
                _mean_square(apart),
            )
        )
        for a, b in zip(ours.categories, theirs.categories, strict=True):
            changed, asked = changed + int((a != b).sum()), asked + a.size
    psnrs, errors, noises, differences = zip(*columns, strict=True)
    return Score(psnrs, errors, noises, differences, changed / asked if asked else None)


def _run(candidate: Candidate, rgb: npt.NDArray[np.uint8]) -> Seen:
    """uint8 H W 3, padded and routed as the model wants it."""
    artefact = candidate.backend.artefact
    feed = feed_for(artefact, rgb)
    got = candidate.backend.run(feed)
    takes_part: Any = feed.get(ACTIVE, slice(None))
    height, width = (artefact.scale * size for size in rgb.shape[:2])
    output = got[OUTPUT][0, :, :height, :width].transpose(1, 2, 0).astype(np.float32)
    output = np.where(np.isfinite(output), output.clip(0, 1), np.float32(-1))
    return Seen(
        output,
        tuple(got[name].reshape(-1)[takes_part].astype(np.uint16) for name in candidate.categories),
    )


def _mean_square(values: npt.NDArray[np.float64]) -> float:
    return float(np.mean(values**2))
