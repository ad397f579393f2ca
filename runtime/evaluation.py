"""Measuring super-resolution as the papers do: PSNR and SSIM against ground truth, by picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PictureError, PpsrError

from .dataset import PictureSet, read_ground_truth
from .imresize import degrade
from .metrics import psnr_y, ssim_y
from .upscaler import Result

MIN_SIDE = 8
"""Of a low-resolution picture. SSIM's window then fits inside the border at every scale."""

PROTOCOL: Final = {
    "ground truth": "grey expanded to RGB; cut at the bottom and right to multiples of the scale",
    "input": "MATLAB's bicubic imresize (antialiased) of the ground truth, rounded to 8 bits",
    "output": "clamped and rounded to 8 bits; as many border pixels as the scale left out",
    "luma": "Y of BT.601, 16 to 235, as MATLAB's rgb2ycbcr; rounded to integers unless said",
    "psnr_y": "10 log10(255^2 / mean squared error), dB; the mean of a set is over its pictures",
    "ssim_y": "Gaussian window 11 x 11, sigma 1.5, K 0.01 and 0.03, L 255; inside the border only",
    "pure": "share of the input's pixels that skip category attention; of a set, over all pixels",
    "milliseconds": "the model and its routing, one run; no reading, no conversion",
}


@dataclass(frozen=True)
class Method:
    """Something that makes pictures larger."""

    name: str
    """Unique among the methods of an evaluation."""
    upscale: Callable[[npt.NDArray[np.uint8]], Result]
    """uint8 H W 3 -> S*H S*W 3 and how it went."""
    identity: Mapping[str, Any]
    """For the JSON: which model, weights, routing, device."""


@dataclass(frozen=True)
class Score:
    """One picture, or the means of a set, by one method."""

    psnr_y: float
    """The headline, dB; inf where the output equals the ground truth."""
    psnr_y_unrounded: float
    """Of the luma with its fractions, as BasicSR measures."""
    ssim_y: float
    pure: float | None
    """Share of pure pixels; None for a method without Pure-Pass."""
    milliseconds: float


@dataclass(frozen=True)
class Row:
    """One picture by one method."""

    set: str
    picture: str
    """Its path below the folder of the set."""
    size: tuple[int, int]
    """H W of the input; the ground truth is ``scale`` times larger."""
    method: str
    score: Score


@dataclass(frozen=True)
class Gain:
    """The second method minus the first; 0 where both are equal, inf and all."""

    psnr_y: float
    psnr_y_unrounded: float
    ssim_y: float


@dataclass(frozen=True)
class Evaluation:
    """All rows: set by set, picture by picture, one for each method in their order."""

    scale: int
    methods: tuple[Method, ...]
    sets: tuple[PictureSet, ...]
    rows: tuple[Row, ...]

    def pictures(self, set_name: str) -> list[tuple[Row, ...]]:
        """Return the rows of a set, those of one picture together."""
        rows, step = [row for row in self.rows if row.set == set_name], len(self.methods)
        return [tuple(rows[at : at + step]) for at in range(0, len(rows), step)]

    def means(self, set_name: str) -> tuple[Score, ...]:
        """Return the means of a set, by method."""
        return tuple(_mean(rows) for rows in zip(*self.pictures(set_name), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Spell it for JSON, which has no inf: null means that the pictures are equal."""
        return {
            "scale": self.scale,
            "protocol": PROTOCOL,
            "methods": [{"name": m.name, **m.identity} for m in self.methods],
            "sets": [self._set(one) for one in self.sets],
        }

    def _set(self, one: PictureSet) -> dict[str, Any]:
        pictures = []
        for rows in self.pictures(one.name):
            scores = [row.score for row in rows]
            pictures.append(
                {"picture": rows[0].picture, "size": rows[0].size, **self._scores(scores)}
            )
        means = {"pictures": len(pictures), **self._scores(self.means(one.name))}
        return {"name": one.name, "folder": str(one.folder), "mean": means, "rows": pictures}

    def _scores(self, scores: Sequence[Score]) -> dict[str, Any]:
        names = [method.name for method in self.methods]
        spelt: dict[str, Any] = {
            "scores": {name: _finite(score) for name, score in zip(names, scores, strict=True)}
        }
        if len(scores) == 2:
            spelt["gain"] = _finite(gain(*scores))
        return spelt

    def to_csv(self) -> str:
        """Spell the rows as CSV, in full precision."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [field.name for field in fields(Score)]
        writer.writerow(["set", "picture", "height", "width", "method", *columns])
        for row in self.rows:
            scores = asdict(row.score).values()
            writer.writerow([row.set, row.picture, *row.size, row.method, *scores])
        return text.getvalue()


def require_measurable(sets: Iterable[PictureSet], scale: int) -> None:
    """Read every picture once: a broken one at the end must not cost the hours before it.

    Raises PictureError for one that cannot be read or is too small.
    """
    for path in (path for one in sets for path in one.paths):
        height, width = read_ground_truth(path).shape[:2]
        least = MIN_SIDE * scale
        if min(height, width) < least:
            raise PictureError(
                f"{path} is too small to measure at x{scale}: expected {least} x {least} pixels "
                f"or more, got {height} x {width}"
            )


def evaluate(
    methods: Sequence[Method],
    sets: Sequence[PictureSet],
    scale: int,
    on_row: Callable[[Row], object] | None = None,
) -> Evaluation:
    """Measure every method on every picture; ``on_row`` is told each row when it is done.

    Raises PictureError as ``require_measurable`` does, PpsrError, with the picture's name, where
    a method fails.
    """
    require_measurable(sets, scale)
    rows = []
    for one in sets:
        for path in one.paths:
            small, truth = degrade(read_ground_truth(path), scale)
            for method in methods:
                try:
                    result = method.upscale(small)
                except PpsrError as error:
                    raise type(error)(f"{path} by {method.name}: {error}") from error
                row = Row(
                    set=one.name,
                    picture=path.relative_to(one.folder).as_posix(),
                    size=(small.shape[0], small.shape[1]),
                    method=method.name,
                    score=measure(result, truth, scale),
                )
                rows.append(row)
                if on_row is not None:
                    on_row(row)
    return Evaluation(scale, tuple(methods), tuple(sets), tuple(rows))


def measure(result: Result, truth: npt.NDArray[np.uint8], scale: int) -> Score:
    """Compare an output with its ground truth, uint8 S*H S*W 3."""
    return Score(
        psnr_y=psnr_y(result.pixels, truth, scale),
        psnr_y_unrounded=psnr_y(result.pixels, truth, scale, rounded=False),
        ssim_y=ssim_y(result.pixels, truth, scale),
        pure=result.pure,
        milliseconds=result.milliseconds,
    )


def gain(first: Score, second: Score) -> Gain:
    """Return what ``second`` has more than ``first``."""
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(Gain))
    return Gain(*(0.0 if a == b else b - a for a, b in pairs))


def _mean(rows: Sequence[Row]) -> Score:
    scores = [row.score for row in rows]
    pixels = [math.prod(row.size) for row in rows]
    pure = [s.pure * n for s, n in zip(scores, pixels, strict=True) if s.pure is not None]
    return Score(
        psnr_y=fmean(s.psnr_y for s in scores),
        psnr_y_unrounded=fmean(s.psnr_y_unrounded for s in scores),
        ssim_y=fmean(s.ssim_y for s in scores),
        pure=sum(pure) / sum(pixels) if pure else None,
        milliseconds=fmean(s.milliseconds for s in scores),
    )


def _finite(numbers: Score | Gain) -> dict[str, float | None]:
    """Spell numbers for JSON; equal pictures differ in nothing, which is no finite PSNR."""
    spelt = asdict(numbers)
    return {k: v if v is None or math.isfinite(v) else None for k, v in spelt.items()}
