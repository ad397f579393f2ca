"""What is upscaled: pixels that are asked for by rows, so that no picture need be in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PictureError

Array = npt.NDArray[Any]

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
CHANNELS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}


class Pixels(Protocol):
    """A picture of 1 to 4 channels: see ``CHANNELS``.

    uint8 and uint16 use their whole range; float32 is finite and mostly within [0, 1]. Alpha is
    straight, not multiplied into the colours.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """H W C."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """One of ``DTYPES``."""

    def rows(self, top: int, bottom: int) -> Array:
        """Return the rows from ``top`` to ``bottom``, H' W C. Raises PictureError if damaged."""


@dataclass(frozen=True)
class ArrayPixels:
    """An array in memory."""

    array: Array
    """H W C."""

    def __post_init__(self) -> None:
        """Raise PictureError for what is no picture."""
        array: object = self.array
        expected = "expected a picture uint8, uint16 or float32, H W C with C from 1 to 4"
        if not isinstance(array, np.ndarray):
            raise PictureError(f"{expected}, got {type(array).__name__}")
        right = array.ndim == 3 and array.shape[2] in CHANNELS and array.size > 0
        if array.dtype not in DTYPES or not right:
            raise PictureError(f"{expected}, got {array.dtype} {array.shape}")
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise PictureError(f"{expected}, got float32 with values that are no numbers")

    @property
    def shape(self) -> tuple[int, int, int]:
        """H W C."""
        height, width, channels = self.array.shape
        return height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """One of ``DTYPES``."""
        return self.array.dtype

    def rows(self, top: int, bottom: int) -> Array:
        """Return a view of the rows from ``top`` to ``bottom``."""
        return self.array[top:bottom]
