from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ppsr.runtime.metrics import luma, psnr, psnr_y, ssim, ssim_y


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


def noisy(rgb: np.ndarray, spread: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-spread, spread + 1, rgb.shape)
    return np.clip(rgb.astype(int) + noise, 0, 255).astype(np.uint8)


def by_scikit_image(a: np.ndarray, b: np.ndarray) -> float:
    """As its documentation says one matches Wang et al."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, data_range=255, **options))


@pytest.mark.parametrize("size", [(61, 83), (11, 11), (12, 200), (301, 33)])
@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea"])
def test_ssim_agrees_with_scikit_image(photo: Callable, name: str, size: tuple[int, int]) -> None:
    a = photo(name, min(size[0], 300), size[1])
    b = noisy(a, 20)
    for first, second in ((luma(a), luma(b)), (a[..., 1], b[..., 1]), (luma(a), 255 - luma(a))):
        expected = by_scikit_image(first, second)
        assert ssim(first, second) == pytest.approx(expected, abs=1e-12)
        assert ssim(second, first) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_equals_is_one_and_a_little_noise_is_seen(photo: Callable) -> None:
    values = [ssim_y(photo(), noisy(photo(), spread), 2) for spread in (0, 1, 4, 16, 64)]
    assert values[0] == pytest.approx(1, abs=1e-12)
    assert values[1] < 0.9999
    assert values == sorted(values, reverse=True)


def test_ssim_takes_the_peak_into_account(photo: Callable) -> None:
    a, b = luma(photo()), luma(noisy(photo(), 20))
    assert ssim(a / 255, b / 255, peak=1) == pytest.approx(ssim(a, b), abs=1e-12)
    assert ssim(a / 255, b / 255) > ssim(a, b) + 0.01


def test_ssim_y_leaves_the_border_out_and_rounds(photo: Callable) -> None:
    a = photo("chelsea")
    b = noisy(a, 5)
    y = [rgb2ycbcr(p)[3:-3, 3:-3, 0] for p in (a, b)]
    assert ssim_y(a, b, 3, rounded=False) == pytest.approx(by_scikit_image(*y), abs=1e-9)
    expected = by_scikit_image(*map(np.rint, y))
    assert ssim_y(a, b, 3) == pytest.approx(expected, abs=1e-12)
    assert abs(ssim_y(a, b, 3) - ssim_y(a, b, 3, rounded=False)) > 1e-6
    b = a.copy()
    b[:3] = b[-3:] = 0
    assert ssim_y(a, b, 3) == pytest.approx(1, abs=1e-12)
    assert ssim_y(a, b, 2) < 0.999


def test_ssim_refuses_what_the_window_does_not_fit_in(photo: Callable) -> None:
    y = luma(photo())
    for a, b in ((y, y[1:]), (y[:10], y[:10]), (photo(), photo()), (y[0], y[0])):
        with pytest.raises(ValueError, match="two arrays H W of one shape, 11 x 11 or larger"):
            ssim(a, b)
    with pytest.raises(ValueError, match="11 x 11 or larger"):
        ssim_y(photo(height=20), photo(height=20), 5)
    with pytest.raises(ValueError, match="larger than a border of 31"):
        ssim_y(photo(), photo(), 31)
