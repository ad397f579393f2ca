"""The mask of a whole picture, by rows: the same wherever the picture is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ppsr.models.config import PurePass
from ppsr.models.pure_pass import GRID

from .canvas import Canvas, Floats
from .pixels import Pixels


@dataclass(frozen=True)
class Mask:
    """Finds the mask of some rows, by looking at them and at the windows above and below."""

    settings: PurePass
    height: int
    """Of the padded picture."""
    plane: Callable[[npt.NDArray[np.intp]], Floats]
    """Rows of the padded picture: indices -> float32 len width 3."""

    def rows(self, top: int, bottom: int) -> npt.NDArray[np.bool_]:
        """Return rows of the mask, True = pure. Windows wrap around, as the picture is rolled."""
        first, last = top // GRID * GRID - GRID, bottom + -bottom % GRID + GRID
        colours = self.plane(np.arange(first, last) % self.height)
        pure = self.settings.mask(np.rint(colours * 255).astype(np.uint8))
        return pure[top - first : bottom - first]


def mask_rows(settings: PurePass, picture: Pixels, top: int, bottom: int) -> npt.NDArray[np.bool_]:
    """Return rows of the mask of a whole picture: bool bottom - top, W; True = pure.

    Of the colours as the network sees them, multiplied by alpha.
    """
    canvas = Canvas(picture)
    mask = Mask(settings, canvas.height, lambda rows: canvas.planes(rows)[0])
    return mask.rows(top, bottom)[:, : picture.shape[1]]
