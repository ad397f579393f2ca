"""MATLAB's bicubic ``imresize`` on 8-bit pictures: what super-resolution papers shrink with.

Neither libvips nor PIL nor OpenCV gives the same pixels: MATLAB widens the kernel when it shrinks,
mirrors at the edges, and rounds to 8 bits after each of its two passes, rows first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def imresize(rgb: npt.NDArray[np.uint8], factor: float) -> npt.NDArray[np.uint8]:
    """Return the picture ``factor`` times as large at each side, bit-equal to MATLAB's.

    uint8 H W C -> uint8 ceil(factor*H) ceil(factor*W) C. Raises ValueError for another array, and
    for a factor that is no positive number.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.size == 0:
        raise ValueError(f"expected a picture uint8 H W C, got {rgb.dtype} {rgb.shape}")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"expected a positive factor, got {factor}")
    for axis in (0, 1):
        rgb = _resize_axis(rgb, axis, factor)
    return np.ascontiguousarray(rgb)


def degrade(rgb: npt.NDArray[np.uint8], scale: int) -> tuple[npt.NDArray[np.uint8], ...]:
    """Make a pair to train or to measure with: (low resolution, ground truth).

    The ground truth is ``rgb`` cut at the bottom and right to multiples of ``scale``; the other is
    ``scale`` times smaller. uint8 S*h+i S*w+j 3 -> uint8 h w 3, uint8 S*h S*w 3.
    """
    height, width = (side - side % scale for side in rgb.shape[:2])
    truth = np.ascontiguousarray(rgb[:height, :width])
    return imresize(truth, 1 / scale), truth


def _resize_axis(rgb: npt.NDArray[np.uint8], axis: int, factor: float) -> npt.NDArray[np.uint8]:
    """One pass, rounded half up as MATLAB rounds."""
    taps, weights = _contributions(rgb.shape[axis], factor)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    source = rgb.astype(np.float64)
    total: npt.NDArray[Any] = np.zeros(1)
    for tap, weight in zip(taps.T, weights.T, strict=True):
        total = total + source.take(tap, axis) * weight.reshape(shape)
    return np.floor(total + 0.5).clip(0, 255).astype(np.uint8)


def _contributions(
    length: int, factor: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Say which pixels each output pixel is made of, and how much of each: two arrays out taps."""
    stretch = min(factor, 1.0)
    out = math.ceil(length * factor)
    width = 4 / stretch
    centre = np.arange(1, out + 1) / factor + 0.5 * (1 - 1 / factor)
    left = np.floor(centre - width / 2)
    taps = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = stretch * _cubic(stretch * (centre[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    mirror = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    index = mirror[(taps.astype(np.int64) - 1) % (2 * length)]
    used = weights.any(0)
    return index[:, used], weights[:, used]


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic kernel, a = -0.5."""
    x = abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
