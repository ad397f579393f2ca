"""Estimators against brute force; histograms that do not know in which order values came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ppsr.calibration.estimators import (
    ALL_ZERO,
    BINS,
    ESTIMATORS,
    LEVELS,
    SMALLEST,
    STEP,
    Histogram,
    divergences,
    estimate,
)
from ppsr.calibration.photo import sample_photo
from ppsr.models.errors import PpsrError, UsageError

Floats = npt.NDArray[np.float32]


def of(*arrays: npt.NDArray[Any]) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def tensors() -> dict[str, Floats]:
    """Shapes of values as they come: bells, one-sided ones, outliers, steps, a real photo."""
    random = np.random.default_rng(0)
    bell = random.normal(0, 1.7, 4001)
    photo = sample_photo()[::3, ::3].astype(np.float64) / 255
    found = {
        "bell": bell,
        "heavy": random.laplace(0, 0.02, 5003),
        "half": np.maximum(bell, 0),
        "outlier": np.append(bell, [60, -75]),
        "uniform": random.uniform(-300, 20, 3001),
        "photo": photo,
        "edges": np.diff(photo, axis=1),
        "large": 1e30 * bell,
        "tiny": 1e-25 * bell,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


TENSORS = tensors()
named = pytest.mark.parametrize("values", TENSORS.values(), ids=TENSORS.keys())


@named
def test_bins_hold_what_lies_in_them(values: Floats) -> None:
    histogram = of(values)
    sizes = np.abs(values[values != 0]).astype(np.float64)
    ends = np.arange(BINS + 1) * histogram.width
    expected = [(sizes < end).sum() for end in ends]
    np.testing.assert_array_equal(np.append(0, histogram.counts.cumsum()), expected)
    assert histogram.peak == sizes.max()
    assert histogram.values == values.size
    assert BINS / 2 < len(histogram.edges) <= BINS
    assert histogram.edges[-2] <= histogram.peak < histogram.edges[-1]


@named
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_order_of_values_does_not_matter(values: Floats, estimator: str) -> None:
    flat = values.reshape(-1)
    rising = np.sort(np.abs(flat))
    expected = estimate(of(flat), estimator)
    random = np.random.default_rng(1)
    for order in (rising, rising[::-1], -rising, random.permutation(flat)):
        parts = np.array_split(order, [1, 2, 3, 700, 700, 2000])  # One of them is empty.
        histogram = of(*parts)
        assert estimate(histogram, estimator) == expected
        np.testing.assert_array_equal(histogram.counts, of(flat).counts)


@named
def test_minmax_is_exact(values: Floats) -> None:
    assert estimate(of(values), "minmax") == np.abs(values).max()


@named
@pytest.mark.parametrize("percentile", [50, 90.5, 99.99, 100])
def test_the_percentile_is_that_of_numpy_to_a_bin(values: Floats, percentile: float) -> None:
    histogram = of(values)
    found = estimate(histogram, "percentile", percentile=percentile)
    sizes = np.abs(values[values != 0]).astype(np.float64)
    exact = np.percentile(sizes, percentile, method="inverted_cdf")
    assert exact <= found <= exact + histogram.width


def divergence(counts: list[int], kept: int) -> float:
    """The textbook: KL of the clipped histogram from what 128 levels make of the part kept."""
    wanted = [float(count) for count in counts[:kept]]
    wanted[-1] += sum(counts[kept:])
    made = [0.0] * kept
    for level in range(128):
        bins = range(level * kept // 128, (level + 1) * kept // 128)
        filled = [i for i in bins if wanted[i] > 0]
        for i in filled:
            made[i] = sum(counts[j] for j in bins) / len(filled)
    total, whole = sum(wanted), sum(made)
    if any(p > 0 and q == 0 for p, q in zip(wanted, made, strict=True)):
        return math.inf
    return math.fsum(
        p / total * math.log((p / total) / (q / whole))
        for p, q in zip(wanted, made, strict=True)
        if p > 0
    )


@pytest.mark.parametrize("name", ["bell", "heavy", "outlier", "photo"])
def test_entropy_is_the_textbook(name: str) -> None:
    histogram = of(TENSORS[name])
    counts = histogram.counts[: len(histogram.edges)]
    # A quarter of the bins: plain Python takes a while.
    folded = np.add.reduceat(counts, np.arange(0, len(counts), 4))
    expected = [divergence(folded.tolist(), kept) for kept in range(128, len(folded) + 1)]
    found = divergences(folded)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert found.argmin() == int(np.argmin(expected))
    whole = divergences(counts)
    kept = 128 + int(whole.argmin())
    assert estimate(histogram, "entropy") == min(kept * histogram.width, histogram.peak)
    assert whole.min() == pytest.approx(divergence(counts.tolist(), kept), rel=1e-9, abs=1e-12)


def rounding_error(values: Floats, amax: float) -> float:
    """What INT8 does to the values themselves: sum of squares."""
    exact = values.astype(np.float64)
    scale = amax / LEVELS
    return float(((np.rint(exact / scale).clip(-LEVELS, LEVELS) * scale - exact) ** 2).sum())


# A photo has 256 values, which are no smooth heap: a lucky scale hits many of them.
@pytest.mark.parametrize("name", sorted(TENSORS.keys() - {"photo", "edges"}))
def test_mse_is_the_least_that_any_range_gives(name: str) -> None:
    values = TENSORS[name]
    found = estimate(of(values), "mse")
    peak = float(np.abs(values).max())
    least = min(rounding_error(values, amax) for amax in np.linspace(peak / 40, peak, 1500))
    assert rounding_error(values, found) <= 1.02 * least
    # It bites: a range a quarter off does worse than that.
    assert rounding_error(values, 1.25 * found) > 1.02 * least
    assert rounding_error(values, 0.75 * found) > 1.02 * least


def test_outliers_are_cut_off_by_all_but_minmax() -> None:
    bulk = np.random.default_rng(3).normal(0, 1, 1_000_000).astype(np.float32)
    histogram = of(bulk, np.float32([40]))
    found = {name: estimate(histogram, name) for name in ESTIMATORS}
    assert found["minmax"] == 40
    assert 3.8 < found["percentile"] < 4
    assert 2.5 < found["entropy"] < 6
    assert 3.5 < found["mse"] < 8


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_zeros_change_nothing(estimator: str) -> None:
    values = TENSORS["bell"]
    zeros = np.zeros(100_000, np.float32)
    assert estimate(of(zeros, values, -zeros), estimator) == estimate(of(values), estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("value", [3.0, -0.1, 1.0, 255.0, 1e-20, 3.4e38])
def test_a_constant_keeps_its_value(estimator: str, value: float) -> None:
    value = float(np.float32(value))
    for size in (1, 9000):
        histogram = of(np.full(size, value, np.float32))
        found = estimate(histogram, estimator)
        assert abs(value) - STEP * histogram.width <= found <= abs(value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nothing_but_zeros_has_a_range_too(estimator: str) -> None:
    assert estimate(of(np.zeros((2, 0, 3)), np.zeros(5)), estimator) == ALL_ZERO
    assert estimate(of(np.full(5, SMALLEST / 2, np.float32)), estimator) == ALL_ZERO


def test_halves_are_taken_as_they_are() -> None:
    values = TENSORS["bell"].astype(np.float16)
    assert estimate(of(values), "minmax") == np.abs(values).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_and_not_counted(bad: float) -> None:
    histogram = of(TENSORS["bell"])
    before = histogram.counts.copy(), histogram.peak, histogram.values
    with pytest.raises(PpsrError, match="expected finite values, got NaN or infinity"):
        histogram.add(np.float32([100, bad, 1]))
    np.testing.assert_array_equal(histogram.counts, before[0])
    assert (histogram.peak, histogram.values) == before[1:]


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(PpsrError, match="expected values to take a range from, got none"):
        estimate(of(np.zeros((0, 48))), "minmax")
    with pytest.raises(UsageError, match="of minmax, percentile, entropy, mse, got 'kl'"):
        estimate(of(np.ones(3)), "kl")
    for percentile in (0, -1, 100.1, math.nan):
        with pytest.raises(UsageError, match="percentile above 0, up to 100, got"):
            estimate(of(np.ones(3)), "percentile", percentile=percentile)
