from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from ppsr.runtime.metrics import luma, psnr, psnr_y


def test_agrees_with_scikit_image(photo: Callable) -> None:
    a, b = photo("coffee"), photo("astronaut")
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b))
    fractions = a / 255, b / 255
    assert psnr(*fractions) == pytest.approx(peak_signal_noise_ratio(*fractions, data_range=1))


def test_one_level_apart_is_48_decibels() -> None:
    a = np.zeros((4, 5, 3), np.uint8)
    assert psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    assert psnr(a.astype(np.uint16), a.astype(np.uint16) + np.uint16(257)) == pytest.approx(
        20 * math.log10(255)
    )
    assert psnr(a, a + np.uint8(1), peak=1) == 0
    assert psnr(a, a + np.uint8(255)) == 0


def test_equal_pictures_are_infinitely_close(photo: Callable) -> None:
    assert psnr(photo(), photo()) == math.inf
    assert psnr_y(photo(), photo(), 2) == math.inf


def test_luma_is_bt601(photo: Callable) -> None:
    np.testing.assert_allclose(luma(photo()), rgb2ycbcr(photo())[..., 0], atol=1e-9)
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(luma(ends), [[16, 235]])


def test_psnr_y_leaves_the_border_out_and_rounds(photo: Callable) -> None:
    a = photo("chelsea")
    b = a.copy()
    b[:2] = b[-2:] = 0
    b[:, :2] = b[:, -2:] = 0
    assert psnr_y(a, b, 2) == math.inf
    assert psnr_y(a, b, 1) < 40
    b = np.clip(a.astype(int) + np.random.default_rng(0).integers(-3, 4, a.shape), 0, 255)
    b = b.astype(np.uint8)
    y = [np.rint(rgb2ycbcr(p)[3:-3, 3:-3, 0]) for p in (a, b)]
    assert psnr_y(a, b, 3) == pytest.approx(peak_signal_noise_ratio(*y, data_range=255))
    assert psnr_y(a, b, 3, rounded=False) > psnr_y(a, b, 3)


def test_other_arrays_are_refused(photo: Callable) -> None:
    with pytest.raises(ValueError, match=r"got uint8 \(61, 83, 3\) and uint8 \(61, 80, 3\)"):
        psnr(photo(), photo(width=80))
    with pytest.raises(ValueError, match="one shape and dtype"):
        psnr(photo(), photo() / 255)
    with pytest.raises(ValueError, match="one shape and dtype"):
        psnr(photo()[:0], photo()[:0])
    with pytest.raises(ValueError, match="got float64"):
        luma(photo() / 255)
    with pytest.raises(ValueError, match="one shape, larger than a border of 2"):
        psnr_y(photo(), photo(width=80), 2)
    with pytest.raises(ValueError, match="larger than a border of 31"):
        psnr_y(photo(), photo(), 31)
    with pytest.raises(ValueError, match="border of -1"):
        psnr_y(photo(), photo(), -1)
