"""Times that can be compared: every model runs once in each round, in an order that rotates.

A machine that grows slower while it is measured slows all models of a round alike, so the ratio of
two times is taken within each round, and summarised afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """The middle half of some values, in their unit."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


def summarise(values: Sequence[float]) -> Summary:
    """Return median and quartiles, interpolated. Raises ValueError where there is no value."""
    if not values:
        raise ValueError("expected at least one value, got none")
    if len(values) == 1:
        return Summary(values[0], values[0], values[0])
    low, median, high = quantiles(values, n=4, method="inclusive")
    return Summary(median, low, high)


@dataclass(frozen=True)
class Sample:
    """One run."""

    milliseconds: float
    """The model with its routing."""
    routing: float | None = None
    """The part of it spent on routing, milliseconds; None where the graph routes itself."""


@dataclass(frozen=True)
class Timing:
    """One model on one input, round by round."""

    samples: tuple[Sample, ...]

    @property
    def milliseconds(self) -> Summary:
        """Of the model with its routing."""
        return summarise([sample.milliseconds for sample in self.samples])

    @property
    def routing(self) -> Summary | None:
        """Of routing alone, milliseconds; None where one run does not know it."""
        known = [sample.routing for sample in self.samples if sample.routing is not None]
        return summarise(known) if len(known) == len(self.samples) else None

    def ratio(self, dense: Timing) -> Summary:
        """Summarise dense / own of each round; above 1: this one is faster."""
        return summarise([b / a for a, b in self._pairs(dense)])

    def savings(self, dense: Timing) -> list[float]:
        """Return 1 - own / dense of each round; below 0: this one is slower."""
        return [1 - a / b for a, b in self._pairs(dense)]

    def _pairs(self, other: Timing) -> list[tuple[float, float]]:
        both = zip(self.samples, other.samples, strict=True)
        return [(a.milliseconds, b.milliseconds) for a, b in both]


def added(summaries: Sequence[Summary]) -> Summary:
    """Add medians to medians, quartiles to quartiles."""
    return Summary(
        sum(one.median for one in summaries),
        sum(one.low for one in summaries),
        sum(one.high for one in summaries),
    )


def in_turns(
    runs: Sequence[Callable[[], T]], rounds: int, warm_up: Sequence[int]
) -> list[tuple[T, ...]]:
    """Call every run once in each round -> what each returned, by run and round.

    The order moves on by one from round to round: A B C, B C A, C A B. Before that each run is
    called as often as ``warm_up`` says, in turns too, and what it returns is dropped.
    """
    for turn in range(max(warm_up, default=0)):
        for run, times in zip(runs, warm_up, strict=True):
            if turn < times:
                run()
    found: list[list[T]] = [[] for _ in runs]
    for index in range(rounds):
        for step in range(len(runs)):
            at = (index + step) % len(runs)
            found[at].append(runs[at]())
    return [tuple(values) for values in found]
