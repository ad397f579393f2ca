"""The range of a tensor for INT8: a histogram of its absolute values, and what to keep of it.

INT8 here is symmetric: scale = amax / 127, zero point 0. So a range is one number, the largest
absolute value that is kept; larger ones become it. Zeros do not count: every range holds them
exactly, and a tensor may consist of little else.

- minmax: everything is kept.
- percentile: so many of the values are kept, the rest is taken for outliers.
- entropy: the least Kullback-Leibler divergence between the values, clipped, and what 128 levels
  make of them, as TensorRT calibrates (Migacz, GTC 2017; onnxruntime's entropy calibration).
- mse: the least squared error of rounding and clipping together.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PpsrError, UsageError

ESTIMATORS: Final = ("minmax", "percentile", "entropy", "mse")
PERCENTILE = 99.99
BINS = 2048
"""Of a histogram; as many as TensorRT's entropy calibration takes."""
LEVELS = 127
"""Positive values of INT8."""
SMALLEST = 2.0**-100
"""Smaller values count as 0: the scale of such a range would be no normal FP32."""
ALL_ZERO = 1.0
"""The range of a tensor that was never anything but 0, which any range holds."""
BLOCK = 2**16
"""Values that are sorted in at a time: they stay in the cache."""
STEP = 4
"""Bins between the ranges that "mse" tries."""


class Histogram:
    """Counts of absolute values, in bins of equal width. Takes any number of arrays.

    Depends on which values came, and not at all on their order: a bin is a power of two wide, and
    when a value comes that lies beyond the last one, pairs of bins become one.
    """

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        """int64 BINS: values above 0 in [i, i + 1) * width."""
        self.width = 0.0
        """Of a bin; 0 until a value above 0 came."""
        self.peak = 0.0
        """The largest absolute value, exactly."""
        self.values = 0
        """How many came, zeros included."""

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count an array of floats of any shape, FP32 or less; it may be empty.

        Raises PpsrError where one of them is NaN or infinite; then none of them is counted.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        if not flat.size:
            return
        peak = max(float(flat.max()), -float(flat.min()))
        if not math.isfinite(peak):
            raise PpsrError("expected finite values, got NaN or infinity")
        self.values += flat.size
        if peak < SMALLEST:
            return
        self.peak = max(self.peak, peak)
        self._make_room(peak)
        for start in range(0, flat.size, BLOCK):
            sizes = np.abs(flat[start : start + BLOCK])
            # Exact, since a width is a power of two: so bins of any order of values are the same.
            bins = (sizes * np.float32(1 / self.width)).astype(np.int32)
            bins = bins[sizes >= np.float32(SMALLEST)]
            self.counts += np.bincount(bins, minlength=BINS)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Upper ends of the bins up to that of the peak, float64 n, at least BINS / 2 of them."""
        return np.arange(1, int(self.peak / self.width) + 2, dtype=np.float64) * self.width

    def _make_room(self, peak: float) -> None:
        """Let the bins end at the power of two above ``peak``, if they end before."""
        width = math.ldexp(1, math.frexp(peak)[1]) / BINS
        while 0 < self.width < width:
            self.counts[: BINS // 2] = self.counts.reshape(-1, 2).sum(1)
            self.counts[BINS // 2 :] = 0
            self.width *= 2
        self.width = max(self.width, width)


def require_estimator(name: str) -> None:
    """Raise UsageError unless this is one of ``ESTIMATORS``."""
    if name not in ESTIMATORS:
        raise UsageError(f"expected an estimator of {', '.join(ESTIMATORS)}, got {name!r}")


def estimate(histogram: Histogram, estimator: str, *, percentile: float = PERCENTILE) -> float:
    """Return amax, above 0 and at most the peak, by one of ``ESTIMATORS``.

    ``minmax`` is exact, the others are upper ends of bins. ``percentile``: above 0, up to 100, of
    the values that are not 0. Of a tensor that was all 0 it is ``ALL_ZERO``. Raises UsageError for
    an unknown estimator or percentile, PpsrError where no value came.
    """
    require_estimator(estimator)
    if not 0 < percentile <= 100:
        raise UsageError(f"expected a percentile above 0, up to 100, got {percentile:g}")
    if not histogram.values:
        raise PpsrError("expected values to take a range from, got none")
    if not histogram.peak:
        return ALL_ZERO
    edges = histogram.edges
    counts = histogram.counts[: len(edges)]
    if estimator == "minmax":
        return histogram.peak
    if estimator == "percentile":
        kept = math.ceil(counts.sum() * (percentile / 100))
        amax = edges[np.searchsorted(counts.cumsum(), kept)]
    elif estimator == "entropy":
        amax = edges[LEVELS:][divergences(counts).argmin()]
    else:
        # From the peak down: the last of them is the whole range.
        tried = edges[::-1][::STEP][::-1]
        amax = tried[squared_errors(counts, edges, tried).argmin()]
    return min(float(amax), histogram.peak)


def divergences(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the divergence of keeping the first 128, 129, ... of n bins: float64 n - 127.

    counts: int64 n, n >= 128, the last of them above 0. What is clipped adds to the last bin that
    is kept (P); kept bins that are not empty share evenly what their level, of 128, holds (Q).
    Where Q has nothing for something in P it is inf, which the whole range never is.
    """
    levels = LEVELS + 1
    total = counts.sum()
    kept = np.arange(levels, len(counts) + 1)[:, None]
    ends = kept * np.arange(levels + 1) // levels  # Where levels begin and end: ranges, 129.
    mass = np.concatenate(([0], counts.cumsum()))
    filled = np.concatenate(([0], (counts > 0).cumsum()))
    entropy = np.concatenate(([0.0], _x_log_x(counts).cumsum()))
    held = np.diff(mass[ends])
    bins = np.diff(filled[ends])
    within, clipped = mass[kept[:, 0]], total - mass[kept[:, 0]]
    last = counts[kept[:, 0] - 1]
    bins[:, -1] += (last == 0) & (clipped > 0)
    wanted = held.astype(np.float64)
    wanted[:, -1] += clipped
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.where(wanted > 0, wanted * np.log(held / bins), 0.0).sum(1)
        own = entropy[kept[:, 0] - 1] + _x_log_x(last + clipped)
        found = (own - cross) / total - np.log(total) + np.log(within)
    return np.where(np.isfinite(found), found, np.inf)


def squared_errors(
    counts: npt.NDArray[np.int64],
    edges: npt.NDArray[np.float64],
    tried: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the sum of squared errors that INT8 makes with each amax that is tried: float64 k.

    counts int64 n in bins that end at ``edges``, float64 n, spread evenly over their bin; tried:
    float64 k.
    """
    width = edges[0]
    ends = np.concatenate((np.zeros(1), edges))
    errors = np.empty(len(tried))
    for index, amax in enumerate(tried):
        scale = amax / LEVELS
        level = np.minimum(np.rint(ends / scale), LEVELS)
        # The integral of the squared error from 0 up: whole levels, then on to the end.
        integral = level * (scale**3 / 12) + (ends - level * scale) ** 3 / 3
        errors[index] = counts @ np.diff(integral) / width
    return errors


def _x_log_x(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    floats = values.astype(np.float64)
    return floats * np.log(np.maximum(floats, 1))
