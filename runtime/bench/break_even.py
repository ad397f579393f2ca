"""From which share of pure pixels on masking is faster: where a line through the savings crosses 0.

A line is right for what is measured: the time of category attention is proportional to the active
tokens, that of everything else does not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression
from typing import Any, Literal

import numpy as np

Verdict = Literal["from", "always", "never", "below"]

RESAMPLED = 1000
"""Lines through points drawn again, with repetition: how far chance alone moves the crossing."""
LEFT_OUT = 0.05
"""Of the resampled crossings, at each side."""


@dataclass(frozen=True)
class BreakEven:
    """The line saving = intercept + slope x share, and what follows for shares from 0 to 1."""

    intercept: float
    """The saving where nothing is pure: below 0 it is what routing and its graph cost."""
    slope: float
    verdict: Verdict
    """Masking is faster from ``share`` on, always, never, or (a line that falls) below it."""
    share: float | None
    """Where the line crosses 0 within 0 to 1; None for "always" and "never"."""
    likely: tuple[float, float] | None
    """Where 90 % of the resampled lines cross 0, also beyond 0 to 1.

    None where too many of them slope the other way.
    """

    @property
    def sentence(self) -> str:
        """Say it to a user, with what chance alone would allow."""
        found = {
            "always": "masking is never slower: the line is at or above 0 at every share",
            "never": "masking is never faster: the line is at or below 0 at every share",
        }.get(self.verdict, "")
        if self.share is not None:
            side = "below" if self.verdict == "from" else "above"
            found = f"dense is faster {side} {100 * self.share:.1f} % of pure pixels"
        if self.likely is None:
            return f"{found}; but the points are too scattered to be sure"
        low, high = (max(0.0, min(1.0, end)) for end in self.likely)
        if self.share is None and low == high:
            return found
        return (
            f"{found} (90 % of resampled lines cross 0 from {100 * low:.1f} to {100 * high:.1f} %)"
        )

    def to_json(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return {**asdict(self), "sentence": self.sentence}


def break_even(shares: Sequence[float], savings: Sequence[float]) -> BreakEven:
    """Fit a line, by least squares, to the savings (1 - masked / dense) at each share, 0 to 1.

    The same points give the same answer. Raises ValueError where fewer than two shares differ.
    """
    if len(set(shares)) < 2:
        raise ValueError(f"expected two shares or more, got {list(shares)}")
    slope, intercept = linear_regression(shares, savings)
    low, high = sorted((intercept, intercept + slope))
    verdict: Verdict = "always" if low >= 0 else "never"
    share = None
    if low < 0 < high:
        verdict, share = ("from" if slope > 0 else "below"), -intercept / slope
    likely = _likely(np.array(shares), np.array(savings), math.copysign(1, slope))
    return BreakEven(intercept, slope, verdict, share, likely)


def _likely(x: Any, y: Any, sign: float) -> tuple[float, float] | None:
    """Draw the points again and again; a line with the other slope crosses nowhere."""
    drawn = np.random.default_rng(0).integers(len(x), size=(RESAMPLED, len(x)))
    xs, ys = x[drawn], y[drawn]
    across = xs - xs.mean(1, keepdims=True)
    spread = (across**2).sum(1)
    slopes = (across * ys).sum(1)[spread > 0] / spread[spread > 0]
    means = xs.mean(1)[spread > 0], ys.mean(1)[spread > 0]
    rising = sign * slopes > 0
    crossings = means[0][rising] - means[1][rising] / slopes[rising]
    if len(crossings) < (1 - LEFT_OUT) * len(slopes):
        return None
    low, high = np.quantile(crossings, [LEFT_OUT, 1 - LEFT_OUT]).tolist()
    return low, high
