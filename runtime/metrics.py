"""How close two pictures are: PSNR of all channels, PSNR and SSIM of the luma as papers do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


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
    first, second = _inside(a, b, border, rounded)
    return psnr(first, second, peak=255)


def ssim(a: npt.NDArray[Any], b: npt.NDArray[Any], peak: float = 255) -> float:
    """Return the mean SSIM of two arrays H W of one shape, at most 1, which only equals reach.

    As the reference code of Wang et al. (2004): a Gaussian window of 11 x 11, sigma 1.5, K 0.01
    and 0.03, and only where the window lies inside. Raises ValueError where the shapes differ, are
    not two-dimensional or smaller than the window.
    """
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < SSIM_WINDOW:
        raise ValueError(
            f"expected two arrays H W of one shape, {SSIM_WINDOW} x {SSIM_WINDOW} or larger, "
            f"got {a.shape} and {b.shape}"
        )
    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    variances = _blur(x**2 + y**2) - squares
    covariance = _blur(x * y) - product
    likeness = (2 * product + c1) * (2 * covariance + c2)
    return float((likeness / ((squares + c1) * (variances + c2))).mean())


def ssim_y(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], border: int, *, rounded: bool = True
) -> float:
    """Return the SSIM of the luma without ``border`` pixels at each side. uint8 H W 3.

    Border, rounding and errors are those of ``psnr_y``; raises ValueError too where less than the
    window is inside the border.
    """
    return ssim(*_inside(a, b, border, rounded))


def _inside(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], border: int, rounded: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return what papers compare of two pictures: their luma inside the border."""
    if a.shape != b.shape or border < 0 or 2 * border >= min(a.shape[:2], default=0):
        raise ValueError(
            f"expected two pictures of one shape, larger than a border of {border} pixels "
            f"at each side, got {a.shape} and {b.shape}"
        )
    inside = (slice(border, a.shape[0] - border), slice(border, a.shape[1] - border))
    first, second = luma(a)[inside], luma(b)[inside]
    return (np.rint(first), np.rint(second)) if rounded else (first, second)


def _blur(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weigh with the Gaussian window, inside only, one axis after the other. H W -> H-10 W-10."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        plane = sliding_window_view(plane, SSIM_WINDOW, axis) @ weights
    return plane
