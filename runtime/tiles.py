"""Where a picture is cut into tiles, and how their overlaps are blended: geometry alone.

Everything is in low-resolution pixels of the padded picture, in multiples of ``GRID``, so that the
windows of a tile are windows of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import GRID

from .sidecar import ShapeRange, Size

OVERLAP = 32
"""The default, chosen by measurement: docs/tiling.md."""
SMALLEST = 64
"""Smaller tiles are not offered: they would be mostly overlap."""


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut. None everywhere: only where it does not fit, as memory allows."""

    tile: int | None = None
    """Side of a tile at most, low-resolution pixels; None: as large as fits."""
    overlap: int | None = None
    """At least so many pixels are shared by neighbours; None: ``OVERLAP``."""
    max_memory: int | None = None
    """Bytes; None: what the machine has left."""
    cut: bool = True
    """False: refuse what does not fit as a whole."""

    def __post_init__(self) -> None:
        """Raise UsageError for sizes off the grid, or tiles that are mostly overlap."""
        for name, value, least in (("tile", self.tile, SMALLEST), ("overlap", self.overlap, GRID)):
            wrong = value is not None and (type(value) is not int or value < least or value % GRID)
            if wrong:
                raise UsageError(
                    f"expected {name} as a multiple of {GRID} from {least} up, got {value!r}"
                )
        if self.tile is not None and 2 * self.shared > self.tile:
            raise UsageError(
                f"expected an overlap of at most half a tile, got {self.shared} of {self.tile}"
            )
        if self.max_memory is not None and self.max_memory < 1:
            raise UsageError(f"expected memory in bytes, more than 0, got {self.max_memory}")

    @property
    def shared(self) -> int:
        """Pixels that neighbours share, at least."""
        return OVERLAP if self.overlap is None else self.overlap


WHOLE = Tiling(cut=False)
"""For what is measured: a tiled picture is another one."""


@dataclass(frozen=True)
class Axis:
    """The tiles along one side of a picture, all of one length."""

    starts: tuple[int, ...]
    length: int

    def weights(self, scale: int) -> list[npt.NDArray[np.float32]]:
        """How much each tile counts at each of its pixels, enlarged: float32 scale * length.

        They rise and fall linearly over what neighbours share; over all tiles they add up to 1.
        """
        length = self.length * scale
        starts = [start * scale for start in self.starts]
        tiles = []
        for index, start in enumerate(starts):
            weight = np.ones(length)
            if index:
                shared = starts[index - 1] + length - start
                weight[:shared] *= _ramp(shared)
            if index + 1 < len(starts):
                shared = start + length - starts[index + 1]
                weight[length - shared :] *= _ramp(shared)[::-1]
            tiles.append(weight)
        total = np.zeros(starts[-1] + length)
        for start, weight in zip(starts, tiles, strict=True):
            total[start : start + length] += weight
        return [
            (weight / total[start : start + length]).astype(np.float32)
            for start, weight in zip(starts, tiles, strict=True)
        ]


def cut(size: int, tile: int, overlap: int, least: int = GRID) -> Axis:
    """Cut ``size`` into as few tiles of ``least`` to ``tile`` as an overlap of ``overlap`` allows.

    All are multiples of ``GRID``. Neighbours share at least ``overlap``.
    An overlap of more than half a tile becomes half a tile.
    """
    if size <= tile:
        return Axis((0,), size)
    overlap = min(overlap, tile // 2 // GRID * GRID)
    count = math.ceil((size - overlap) / (tile - overlap))
    shortest = math.ceil((size + (count - 1) * overlap) / count / GRID) * GRID
    length = min(max(shortest, least), tile)
    free = (size - length) // GRID
    return Axis(tuple(index * free // (count - 1) * GRID for index in range(count)), length)


def tiles_for(size: Size, profiles: Sequence[ShapeRange]) -> tuple[Size, Size]:
    """Return the least and the largest tile of a picture that an engine's best profile takes.

    A picture that is smaller than every profile has been padded before. Without profiles every size
    is taken.
    """
    fitting = [
        (profile.min, (min(size[0], profile.max[0]), min(size[1], profile.max[1])))
        for profile in profiles
        if profile.min[0] <= size[0] and profile.min[1] <= size[1]
    ]
    return max(fitting, key=lambda pair: pair[1][0] * pair[1][1], default=((GRID, GRID), size))


def _ramp(length: int) -> npt.NDArray[np.float64]:
    return (np.arange(length) + 0.5) / length
