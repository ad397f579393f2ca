"""Peak signal-to-noise ratio, of all channels or of the luma as the papers report it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def psnr(a: npt.NDArray[Any], b: npt.NDArray[Any], peak: float | None = None) -> float:
    """Return the PSNR in dB of two arrays of one shape and dtype, inf where they are equal.

    Where one of them is not finite it is -inf or nan.

    ``peak`` is the largest possible value: by default that of an integer dtype (255 for uint8), and
    1 for floats. Raises ValueError where shapes or dtypes differ.
    """
    if a.shape != b.shape or a.dtype != b.dtype or a.size == 0:
        raise ValueError(
            f"expected two arrays of one shape and dtype, "
            f"got {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        )
    if peak is None:
        peak = float(np.iinfo(a.dtype).max) if np.issubdtype(a.dtype, np.integer) else 1.0
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    if not math.isfinite(error):
        return -math.inf if error == math.inf else math.nan
    return 10 * math.log10(peak**2 / error) if error else math.inf


def luma(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return BT.601 luma, 16 to 235, not rounded. uint8 H W 3 -> float64 H W."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected a picture uint8 H W 3, got {rgb.dtype} {rgb.shape}")
    return np.asarray(16 + rgb @ (np.array([65.481, 128.553, 24.966]) / 255))


def psnr_y(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], border: int, *, rounded: bool = True
) -> float:
    """Return the PSNR of the luma without ``border`` pixels at each side. uint8 H W 3.

    With ``border`` = scale this is the headline number of super-resolution papers. MATLAB's
    rgb2ycbcr rounds the luma; ``rounded=False`` keeps fractions, as BasicSR does. Raises ValueError
    for other arrays, and for pictures with nothing inside the border.
    """
    if a.shape != b.shape or border < 0 or 2 * border >= min(a.shape[:2], default=0):
        raise ValueError(
            f"expected two pictures of one shape, larger than a border of {border} pixels "
            f"at each side, got {a.shape} and {b.shape}"
        )
    inside = (slice(border, a.shape[0] - border), slice(border, a.shape[1] - border))
    first, second = luma(a)[inside], luma(b)[inside]
    if rounded:
        first, second = np.rint(first), np.rint(second)
    return psnr(first, second, peak=255)
