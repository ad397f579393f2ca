"""MATLAB's imresize: against its own output where ../shared has it, by hand everywhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsr.runtime.dataset import read_ground_truth
from ppsr.runtime.imresize import degrade, imresize
from ppsr.runtime.pictures.decode import read_rgb

SHARED = Path(__file__).parents[3] / "shared"
LOW, HIGH = SHARED / "golden" / "Set5_LR_bicubic", SHARED / "data" / "eval" / "Set5"


@pytest.mark.skipif(not (LOW.is_dir() and HIGH.is_dir()), reason="needs Set5 in ../shared")
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["baby", "bird", "butterfly", "head", "woman"])
def test_shrinks_set5_bit_for_bit_as_matlab_did(name: str, scale: int) -> None:
    expected = read_rgb(LOW / f"{name}x{scale}.png")
    truth = read_ground_truth(HIGH / f"{name}.webp")
    small, cut = degrade(truth, scale)
    np.testing.assert_array_equal(small, expected)
    assert cut.shape == (*(scale * side for side in expected.shape[:2]), 3)
    pillow = Image.fromarray(cut).resize(expected.shape[1::-1], Image.Resampling.BICUBIC)
    assert (np.asarray(pillow) != expected).any()  # The comparison bites.


def row(*levels: int) -> Any:
    """A picture 1 W 1."""
    return np.array(levels, np.uint8).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("picture", "factor", "expected"),
    [
        # Weights of Keys' kernel at a quarter pixel: -3/128, 29/128, 111/128, -9/128.
        (row(100, 200), 2, row(91, 120, 180, 209)),
        (row(10, 20, 30, 40), 2, row(9, 12, 17, 23, 28, 33, 38, 41)),  # 22.5 and 27.5, half up
        (row(0, 255), 2, row(0, 52, 203, 255)),  # -23.9 and 278.9, clamped
        # Twice as wide, and half as high: -3, -9, 29, 111, 111, 29, -9, -3 of 256.
        (row(0, 0, 0, 128, 0, 0, 0, 0), 0.5, row(0, 56, 15, 0)),
        (row(100, 200), 0.5, row(150)),
    ],
)
def test_small_cases_by_hand(picture: Any, factor: float, expected: Any) -> None:
    size = (1 if factor < 1 else 2, expected.shape[1], 1)
    np.testing.assert_array_equal(imresize(picture, factor), np.broadcast_to(expected, size))
    turned = imresize(picture.transpose(1, 0, 2), factor).transpose(1, 0, 2)
    np.testing.assert_array_equal(turned, np.broadcast_to(expected, size))


@pytest.mark.parametrize("factor", [2, 3, 4, 1 / 2, 1 / 3, 1 / 4, 0.7, 1.3])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (13, 10)])
def test_one_colour_stays_and_sides_are_rounded_up(factor: float, size: tuple[int, int]) -> None:
    colour = (200, 3, 255)
    out = imresize(np.full((*size, 3), colour, np.uint8), factor)
    assert out.dtype == np.uint8
    assert out.shape == (*(math.ceil(side * factor) for side in size), 3)
    assert (out == colour).all()


def test_factor_one_changes_nothing(photo: Callable) -> None:
    np.testing.assert_array_equal(imresize(photo(), 1), photo())


@pytest.mark.parametrize("factor", [2, 3, 1 / 2, 1 / 4])
def test_mirrored_pictures_give_mirrored_results(photo: Callable, factor: float) -> None:
    rgb = photo("chelsea", 48, 72)
    out = imresize(rgb, factor).astype(int)
    mirrored = imresize(rgb[:, ::-1], factor)[:, ::-1].astype(int)
    assert np.abs(out - mirrored).max() <= 1  # Sums in another order, rounded twice.


def test_degrade_cuts_at_the_bottom_and_right(photo: Callable) -> None:
    rgb = photo("coffee", 62, 83)
    small, truth = degrade(rgb, 4)
    np.testing.assert_array_equal(truth, rgb[:60, :80])
    np.testing.assert_array_equal(small, imresize(rgb[:60, :80], 0.25))
    assert small.shape == (15, 20, 3)
    assert small.flags.c_contiguous
    assert truth.flags.c_contiguous


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_other_factors_are_refused(photo: Callable, factor: float) -> None:
    with pytest.raises(ValueError, match="expected a positive factor"):
        imresize(photo(), factor)


def test_other_arrays_are_refused(photo: Callable) -> None:
    for array in (photo() / 255, photo()[..., 0], photo()[:0]):
        with pytest.raises(ValueError, match="expected a picture uint8 H W C, got"):
            imresize(array, 2)
