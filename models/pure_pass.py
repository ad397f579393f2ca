"""Pure-Pass routing: which pixels need category attention, from the picture alone.

Pure-Pass, arXiv 2510.01997, equations 1 to 7. Everything here is integer arithmetic on 8-bit
values, so the mask is the same bit for bit in numpy, torch, ONNX and on any device.

With S = V = 0.9 every colour centre (eq. 1) is a multiple of 9/800, c = 9 b / 800 with the integer
rows b of ``CENTRES``. For an 8-bit pixel v the nearest centre (eq. 2) minimises

    || v/255 - 9 b/800 ||^2   <=>   459 |b|^2 - 320 (b . v)

which is exact in int32, float32 and TF32, in any order of its terms, where 0 <= b <= 88: a sum that
holds the first term lies within 3 x 3.7e6 < 2^24 of 0; a sum of products alone is a multiple of 64
and at most 320 x 3 x 88 x 255 < 2^25. Ties (every grey pixel is one: hues k and 16 - k swap green
and blue) go to the lower k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

HUES = 16
SATURATION = VALUE = 0.9
WINDOW = 8
SHIFT = 4
GRID = 16
"""Pictures are padded to multiples of this (the attention window) before they are routed."""
MAX_CENTRES = 255
BLOCK = 4096
"""Pixels that are labelled at a time: their scores stay in the cache."""
LARGEST = 88
"""Of a centre's channel: 88.9 x 9/800 = 1 is the edge of the colour cube."""

CENTRES: npt.NDArray[np.int32] = np.array(
    [
        (80, 8, 8), (80, 35, 8), (80, 62, 8), (71, 80, 8),
        (44, 80, 8), (17, 80, 8), (8, 80, 26), (8, 80, 53),
        (8, 80, 80), (8, 53, 80), (8, 26, 80), (17, 8, 80),
        (44, 8, 80), (71, 8, 80), (80, 8, 62), (80, 8, 35),
    ],
    dtype=np.int32,
)  # fmt: skip
"""Equation 1 in units of 9/800: HSV hue k/16, saturation and value 0.9. int32 16 3."""


def require_routing(window: object, shift: object, centres: object) -> None:
    """Raise ValueError unless these are settings of the mask, in plain ints (bool is none).

    window: divides 16. shift: from 0 up, below window. centres: 1 to 255 rows of three values from
    0 to 88, as nested sequences.
    """
    if type(window) is not int or window < 1 or GRID % window:
        raise ValueError(f"expected a window that divides {GRID}, got {window!r}")
    if type(shift) is not int or not 0 <= shift < window:
        raise ValueError(f"expected a shift from 0 to {window - 1}, got {shift!r}")
    if not _is_row(centres) or not 1 <= len(centres) <= MAX_CENTRES:
        found = f"{len(centres)} rows" if _is_row(centres) else repr(centres)
        raise ValueError(f"expected 1 to {MAX_CENTRES} centres, got {found}")
    for row in centres:
        if not (_is_row(row) and len(row) == 3 and all(map(_is_level, row))):
            raise ValueError(f"expected centres of three ints from 0 to {LARGEST}, got {row!r}")


def _is_row(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _is_level(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def score_table(centres: npt.NDArray[np.int32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return ``(offset, weight)`` so that a pixel's score for each centre is offset - weight v.

    centres int32 K 3 in units of 9/800 -> offset int32 K, weight int32 K 3.
    """
    return 459 * (centres**2).sum(1, dtype=np.int32), 320 * centres


def pad_to_grid(rgb: npt.NDArray[Any], grid: int = GRID) -> npt.NDArray[Any]:
    """Mirror a picture H W ... at the bottom and right, edge repeated, to multiples of ``grid``."""
    bottom, right = (-size % grid for size in rgb.shape[:2])
    return np.pad(rgb, ((0, bottom), (0, right), *[(0, 0)] * (rgb.ndim - 2)), mode="symmetric")


def colour_labels(
    rgb: npt.NDArray[np.uint8], centres: npt.NDArray[np.int32] = CENTRES
) -> npt.NDArray[np.uint8]:
    """Equation 2: the index of the nearest colour centre. uint8 H W 3 -> uint8 H W.

    One minimum finds the centre and settles ties: it is taken of 256 score + index.
    """
    offset, weight = score_table(centres)
    # Integers below 2^33: exact in float64, whose matrix product is numpy's fastest way.
    rows = np.column_stack([-256.0 * weight, 256.0 * offset + np.arange(len(offset))])
    colours = rgb.reshape(-1, 3)
    label = np.empty(len(colours), dtype=np.uint8)
    for start in range(0, len(colours), BLOCK):
        part = slice(start, start + BLOCK)
        pixels = np.ones((4, len(colours[part])))
        pixels[:3] = colours[part].T
        label[part] = (rows @ pixels).min(0).astype(np.int64) & 255
    return label.reshape(rgb.shape[:2])


def pure_windows(labels: npt.NDArray[Any], window: int = WINDOW) -> npt.NDArray[np.bool_]:
    """Equations 3 to 5: pixels whose window holds one label only. H W -> bool H W."""
    height, width = labels.shape
    # Rows first: whole lines are compared, several times as fast as both axes at once.
    lines = labels.reshape(height // window, window, width)
    tiles = (height // window, width // window, window)
    highest, lowest = lines.max(1).reshape(tiles), lines.min(1).reshape(tiles)
    pure: npt.NDArray[np.bool_] = highest.max(2) == lowest.min(2)
    return pure.repeat(window, 0).repeat(window, 1)


def pure_pixels(
    rgb: npt.NDArray[np.uint8],
    *,
    window: int = WINDOW,
    shift: int = SHIFT,
    centres: npt.NDArray[np.int32] = CENTRES,
) -> npt.NDArray[np.bool_]:
    """Equations 2 to 7 on a picture already padded. uint8 H W 3 -> bool H W, True = pure.

    ``shift=0`` leaves out the cross-shift fusion (the paper's table 3). Height and width must be
    multiples of ``window``.
    """
    labels = colour_labels(rgb, centres)
    pure = pure_windows(labels, window)
    if shift:
        rolled = pure_windows(np.roll(labels, (shift, shift), (0, 1)), window)
        pure |= np.roll(rolled, (-shift, -shift), (0, 1))
    return pure


def purity_mask(
    rgb: npt.NDArray[np.uint8],
    *,
    window: int = WINDOW,
    shift: int = SHIFT,
    centres: npt.NDArray[np.int32] = CENTRES,
) -> npt.NDArray[np.bool_]:
    """Return which pixels are pure: they skip category attention.

    rgb: uint8 H W 3, any size. Returns bool H W, True = pure. The mask is computed on the picture
    padded to multiples of 16, as the network sees it, and cropped.

    window: 1, 2, 4, 8 or 16. shift: from 0 up, below window. centres: an array of any integer type,
    K 3 with K from 1 to 255, RGB from 0 to 88 in units of 9/800. Raises ValueError for any other
    argument.
    """
    if not isinstance(rgb, np.ndarray):
        raise ValueError(f"expected a picture uint8 H W 3, got {type(rgb).__name__}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"expected a picture uint8 H W 3, got {rgb.dtype} {rgb.shape}")
    if not isinstance(centres, np.ndarray):
        raise ValueError(f"expected centres as an array, got {type(centres).__name__}")
    require_routing(window, shift, centres.tolist())
    centres = centres.astype(np.int32)
    height, width = rgb.shape[:2]
    pure = pure_pixels(pad_to_grid(rgb), window=window, shift=shift, centres=centres)
    return pure[:height, :width]


def active_tokens(pure: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Equation 11: raster indices of the pixels that are not pure. bool H W -> int64 n."""
    return np.flatnonzero(~pure)


def pure_mask(active: npt.NDArray[np.int64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Undo ``active_tokens``: int64 n -> bool H W, True = pure."""
    pure = np.ones(shape, dtype=np.bool_)
    pure.reshape(-1)[active] = False
    return pure
