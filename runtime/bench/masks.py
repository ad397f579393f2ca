"""Inputs of chosen shares of pure pixels: crops by share, and masks made for the purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ppsr.calibration.crops import Crop
from ppsr.models.pure_pass import WINDOW
from ppsr.runtime.sidecar import Size

SHARES = tuple(tenth / 10 for tenth in range(11))
BINS = 10
IN_A_BIN = 2


def choose_by_share(crops: Sequence[Crop]) -> Mapping[int, list[Crop]]:
    """Return up to ``IN_A_BIN`` crops of each bin (0: below 10 % pure, 9: from 90 %), by bin.

    They are the ones nearest to even steps within the bin. Empty bins are left out.
    """
    chosen: dict[int, list[Crop]] = {}
    for index in range(BINS):
        inside = [crop for crop in crops if bin_of(crop.pure) == index]
        for step in range(min(IN_A_BIN, len(inside))):
            goal = (index + (step + 0.5) / IN_A_BIN) / BINS
            nearest = min(range(len(inside)), key=lambda i: abs(inside[i].pure - goal))
            chosen.setdefault(index, []).append(inside.pop(nearest))
    return chosen


def bin_of(share: float) -> int:
    """Return which tenth a share from 0 to 1 lies in; 1 belongs to the last one."""
    return min(BINS - 1, int(share * BINS))


def made_mask(size: Size, share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Return a mask of whole 8 x 8 windows, as many of them pure as come closest to ``share``.

    size: H W, multiples of 8 -> bool H W, True = pure. A larger share of the same seed has the same
    pure windows and more. Raises ValueError for other sizes and shares.
    """
    height, width = size
    if height < 1 or width < 1 or height % WINDOW or width % WINDOW:
        raise ValueError(f"expected multiples of {WINDOW}, got {height} x {width}")
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share}")
    rows, columns = height // WINDOW, width // WINDOW
    order = np.random.default_rng(seed).permutation(rows * columns)
    pure = np.zeros(rows * columns, np.bool_)
    pure[order[: round(share * rows * columns)]] = True
    return pure.reshape(rows, columns).repeat(WINDOW, 0).repeat(WINDOW, 1)
