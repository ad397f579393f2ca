"""A picture as the network sees it: float32 RGB in [0, 1], padded to the grid, by rows.

Grey becomes three equal channels. Alpha is a second plane, three equal channels too, and the
colours are multiplied by it: what is invisible then weighs nothing, so no fringes come of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PpsrError
from ppsr.models.pure_pass import GRID

from .pixels import Array, Pixels

Floats = npt.NDArray[np.float32]
STRIP = 256
"""Rows that are looked at together where the whole picture is."""


class Canvas:
    """Rows of a padded picture. Mirrored at the bottom and right, edge repeated."""

    def __init__(self, picture: Pixels, least: tuple[int, int] = (GRID, GRID)) -> None:
        """``least``: height and width to pad to, at least; multiples of ``GRID``."""
        self._picture = picture
        height, width, channels = picture.shape
        self.height, self.width = (
            max(size + -size % GRID, small)
            for size, small in zip((height, width), least, strict=True)
        )
        self._rows = np.pad(np.arange(height), (0, self.height - height), mode="symmetric")
        self._columns = np.pad(np.arange(width), (0, self.width - width), mode="symmetric")
        self.channels = channels
        self.low, self.high = _range(picture)

    @property
    def has_alpha(self) -> bool:
        """Whether there is a second plane."""
        return self.channels in (2, 4)

    def planes(self, rows: npt.NDArray[np.intp]) -> list[Floats]:
        """Return these rows, any of the padded picture: the colours and, if there is any, alpha.

        Each float32 len(rows) width 3, in [0, 1].
        """
        pixels = _taken(self._picture, self._rows[rows])
        pixels = pixels if self.width == pixels.shape[1] else pixels[:, self._columns]
        floats = self._normalised(pixels)
        if not self.has_alpha:
            return [_three(floats)]
        alpha = floats[..., -1:].clip(0, 1)
        return [_three(floats[..., :-1] * alpha), _three(alpha)]

    def merge(self, colours: Floats, alpha: Floats | None, dtype: np.dtype[Any]) -> Array:
        """Undo ``planes``: H W 3 and H W 1 of any rows -> H W C of ``dtype``, rounded half to even.

        Raises PpsrError for values that are no numbers.
        """
        if not all(np.isfinite(plane).all() for plane in (colours, alpha) if plane is not None):
            raise PpsrError(
                "the model returned values that are no numbers; export it again as fp32"
            )
        floats = colours if self.channels > 2 else _grey(colours)
        if alpha is not None:
            floats = np.divide(floats, alpha, out=np.zeros_like(floats), where=alpha > 0)
        np.clip(floats, 0, 1, out=floats)
        if (self.low, self.high) != (0, 1):
            floats = floats * (self.high - self.low) + self.low
        if alpha is not None:
            floats = np.concatenate((floats, alpha.clip(0, 1)), -1)
        if dtype == np.float32:
            return floats
        most = np.iinfo(dtype).max
        levels: Array = np.rint(floats.clip(0, 1) * np.float32(most)).astype(dtype)
        return levels

    def _normalised(self, pixels: Array) -> Floats:
        floats = pixels.astype(np.float32)
        if pixels.dtype != np.float32:
            floats /= np.iinfo(pixels.dtype).max
        elif (self.low, self.high) != (0, 1):
            end = -1 if self.has_alpha else None
            floats[..., :end] = (floats[..., :end] - self.low) / (self.high - self.low)
        return floats


def _range(picture: Pixels) -> tuple[float, float]:
    """What becomes 0 and 1: of floats beyond that range, their own least and largest colour."""
    low, high = 0.0, 1.0
    if picture.dtype == np.float32:
        height, _, channels = picture.shape
        for top in range(0, height, STRIP):
            rows = picture.rows(top, min(top + STRIP, height))
            colours = rows[..., : channels - 1 + channels % 2]
            low, high = min(low, float(colours.min())), max(high, float(colours.max()))
    return low, high


def _taken(picture: Pixels, rows: npt.NDArray[np.intp]) -> Array:
    """Fetch rows in any order: neighbours together, and nothing between."""
    jumps = np.flatnonzero(np.abs(np.diff(rows)) > 1) + 1
    runs = []
    for run in np.split(rows, jumps):
        first = run.min()
        runs.append(picture.rows(int(first), int(run.max()) + 1)[run - first])
    return runs[0] if len(runs) == 1 else np.concatenate(runs)


def _grey(colours: Floats) -> Floats:
    """The mean of three channels; of equal ones exactly what they are."""
    mean: Floats = colours.mean(-1, keepdims=True, dtype=np.float64).astype(np.float32)
    return mean


def _three(floats: Floats) -> Floats:
    return floats if floats.shape[-1] == 3 else floats.repeat(3, -1)
