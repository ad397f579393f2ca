"""The mask of a whole picture, by rows: the same wherever the picture is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.config import PurePass
from ppsr.models.pure_pass import GRID

from .canvas import Canvas
from .pixels import Pixels


@dataclass(frozen=True)
class Mask:
    """Finds the mask of some rows, by looking at them and at the windows above and below."""

    settings: PurePass
    canvas: Canvas
    plane: int = 0
    """Of ``Canvas.planes``: the colours, or alpha."""

    def rows(self, top: int, bottom: int) -> npt.NDArray[np.bool_]:
        """Return rows of the padded mask: bool bottom - top, W; True = pure.

        Windows wrap around the edges, as the picture is rolled.
        """
        first, last = top // GRID * GRID - GRID, bottom + -bottom % GRID + GRID
        levels = np.concatenate(
            [self._levels(start, start + GRID) for start in range(first, last, GRID)]
        )
        return self.settings.mask(levels)[top - first : bottom - first]

    def _levels(self, top: int, bottom: int) -> npt.NDArray[np.uint8]:
        """Few rows at a time: floats take four times as much memory, and several are needed."""
        colours = self.canvas.planes(np.arange(top, bottom) % self.canvas.height)[self.plane]
        return np.rint(colours * 255).astype(np.uint8)


@dataclass(frozen=True)
class Skipped:
    """What was skipped where in a picture."""

    rows: Callable[[int, int], npt.NDArray[Any]]
    """From the rows top and bottom to whole numbers bottom-top W: 0 nothing was, up to ``most``."""
    most: int = 1
    label: str | None = None
    """Tells how much; None: the share of the pixels is all there is to tell."""


def mask_of(settings: PurePass, picture: Pixels) -> Callable[[int, int], npt.NDArray[np.bool_]]:
    """Return what finds the mask of rows from top to bottom of a picture, without its padding.

    It is that of the colours as the network sees them, multiplied by alpha.
    """
    mask, width = Mask(settings, Canvas(picture)), picture.shape[1]
    return lambda top, bottom: mask.rows(top, bottom)[:, :width]
