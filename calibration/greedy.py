"""In which order to move groups of layers to less precision, and how many of those moves to keep.

The errors of different groups hardly know of each other, so that their squares add up:

    drop = 10 log10(1 + sum over groups of cost / error in FP32)

The cost of a group is the squared error that it adds, measured alone. Noise, the squared difference
from FP32, is no measure of it: one token in another category regroups 128, which changes pixels far
more than rounding does, and is as often for the better. Cost, noise and error are means over crops,
as if these were parts of one picture: alone, a crop that is nearly flat has a PSNR that no picture
has, and would lose dB to noise that nobody sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .recipe import LayerPrecision
from .scores import Score

Save = Literal["time", "bytes"]
Mix = Mapping[str, LayerPrecision]
"""Precision by name of group; groups that are left out stay in FP32."""
Move = tuple[str, LayerPrecision]

WIDTH: Mapping[LayerPrecision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of a number. The time of a multiply-add is taken to be in proportion, as units that
multiply matrices have it; what a mix really takes must be measured."""


@dataclass(frozen=True)
class Group:
    """Layers that change their precision together."""

    name: str
    """A glob over layer names: what the recipe says."""
    precisions: tuple[LayerPrecision, ...]
    """What it may take instead of FP32."""
    multiply_adds: float
    """Of one picture of any fixed size, all layers."""
    bytes: int
    """Of the weights in FP32."""

    def whole(self, save: Save) -> float:
        """Return what it takes in FP32: multiply-adds, or bytes."""
        return self.multiply_adds if save == "time" else self.bytes

    def saving(self, precision: LayerPrecision, save: Save) -> float:
        """Return what is saved of that."""
        return self.whole(save) * (1 - WIDTH[precision] / WIDTH["fp32"])


@dataclass(frozen=True)
class Sensitivity:
    """One group in one precision, all others in FP32, on the held-in samples."""

    group: str
    precision: LayerPrecision
    saving: float
    """In multiply-adds of FP32 or in bytes."""
    error: float
    """Its ``cost`` over the error that FP32 has against ground truth; adds up."""
    psnr: float
    """dB between the outputs; inf where they are equal."""
    psnr_drop: float
    """dB of PSNR of Y against ground truth, of all samples as one picture; below 0: it gains."""
    flipped: float | None
    """Share of active tokens in another category."""


CHANCE = 0.05
"""Of the noise of a move, counted even where it adds no error."""
_Corner = tuple[float, float, LayerPrecision]
"""Saving, error, and what has them."""


def cost(found: Score, base: Score) -> float:
    """Return the squared error against ground truth that a move adds to that in FP32, ``base``.

    At least ``CHANCE`` of its noise: less cannot be told on a few crops. At most all of it.
    """
    added = found.mean_error - base.mean_error
    return min(max(added, CHANCE * found.mean_noise), found.mean_noise)


def order_moves(sensitivities: Sequence[Sensitivity]) -> list[Move]:
    """Return the moves worth taking, by rising error per saving over the move before.

    Of a group, a precision is left out that another one beats in both, or that a mix of its
    neighbours would: what remains is a convex curve, whose moves come in their order. Where two
    moves tie, the group measured first goes first.
    """
    groups: dict[str, list[Sensitivity]] = {}
    for one in sensitivities:
        groups.setdefault(one.group, []).append(one)
    moves: list[tuple[float, Move]] = []
    start: _Corner = (0.0, 0.0, "fp32")
    for name, options in groups.items():
        corners = [start]
        for one in sorted(options, key=lambda one: (one.saving, -one.error)):
            if one.saving > 0:
                corner: _Corner = (one.saving, one.error, one.precision)
                while len(corners) > 1 and _slope(corners[-2], corner) <= _slope(*corners[-2:]):
                    corners.pop()
                corners.append(corner)
        for before, after in pairwise(corners):
            moves.append((_slope(before, after), (name, after[2])))
    return [move for _, move in sorted(moves, key=lambda one: one[0])]


def longest(holds: Callable[[int], bool], guess: int, most: int, least: int = 0) -> int:
    """Return the largest n from ``least`` to ``most`` that ``holds`` where n + 1 does not.

    ``least`` holds and is not asked. Begins at ``guess`` and goes up or down in growing steps, then
    halves what is left. Where ``holds`` is not monotone it is one such n.
    """
    low, high = least, most + 1
    at, step = guess, 1
    while high - low > 1:
        at = min(max(at, low + 1), high - 1)
        if holds(at):
            low = at
        else:
            high = at
        enclosed = low > least and high <= most
        at = (low + high) // 2 if enclosed else (low + step if low > least else high - step)
        step *= 2
    return low


def predicted_moves(
    order: Sequence[Move], scores: Mapping[Move, Score], base: Score, budget_db: float
) -> int:
    """Return how many moves of ``order`` keep the budget by what their costs add up to.

    scores: of each move alone; base: of the network in FP32, on the same samples.
    """
    for moves in range(1, len(order) + 1):
        added = sum(cost(scores[move], base) for move in dict(order[:moves]).items())
        if 10 * math.log10(1 + added / base.mean_error) > budget_db:
            return moves - 1
    return len(order)


def _slope(before: _Corner, after: _Corner) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])
