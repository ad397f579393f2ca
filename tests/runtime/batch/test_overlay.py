from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ppsr.models.config import PurePass
from ppsr.models.pure_pass import pad_to_grid, purity_mask
from ppsr.runtime.batch.overlay import GLYPHS, ROWS, TINT, Beside, tinted, to_rgb
from ppsr.runtime.imresize import imresize
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.routing import Skipped, mask_of


class Counted(ArrayPixels):
    """Keeps how many rows were asked for at once."""

    most = 0

    def rows(self, top: int, bottom: int) -> npt.NDArray[Any]:
        type(self).most = max(self.most, bottom - top)
        assert 0 <= top < bottom <= self.shape[0]
        return super().rows(top, bottom)


def draw(picture: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    rows = tinted(ArrayPixels(picture), Skipped(lambda top, bottom: mask[top:bottom]))
    return np.concatenate(list(rows))


def read_label(picture: npt.NDArray[np.uint8], size: int) -> str:
    """Read the text at the bottom left, dot by dot."""
    dots = picture[-7 * size :: size, ::size, 0][1:6]
    names = {glyph: letter for letter, glyph in GLYPHS.items()}
    text = ""
    for left in range(1, dots.shape[1] - 3, 4):
        glyph = " ".join(
            "".join(".#"[int(dot == 255)] for dot in line[left : left + 3]) for line in dots
        )
        if glyph not in names:
            break
        text += names[glyph]
    return text.strip()


@pytest.mark.parametrize("height", [61, 2 * ROWS - 1, 2 * ROWS, 599])
def test_pure_pixels_are_tinted_and_their_share_is_written(photo: Callable, height: int) -> None:
    rgb = photo("astronaut", height, 301)
    rgb = np.resize(rgb, (height, 301, 3))
    mask = purity_mask(rgb)
    assert 0 < mask.mean() < 1
    overlay = draw(rgb, mask)
    assert overlay.shape == rgb.shape
    size = max(1, min(height, 301) // 80)
    assert read_label(overlay, size) == f"{100 * mask.mean():.1f} %"
    above = slice(0, height - 7 * size)
    np.testing.assert_array_equal(overlay[above][~mask[above]], rgb[above][~mask[above]])
    expected = (rgb[above][mask[above]] + TINT) // 2
    np.testing.assert_array_equal(overlay[above][mask[above]], expected)


def test_the_mask_of_the_whole_picture_is_shown(photo: Callable) -> None:
    """Asked for by rows, the mask is what the network sees."""
    rgb = photo("coffee", 399, 301)
    settings = PurePass()
    picture = ArrayPixels(rgb)
    rows = list(tinted(picture, Skipped(mask_of(settings, picture))))
    whole = settings.mask(pad_to_grid(rgb))[:399, :301]
    np.testing.assert_array_equal(np.concatenate(rows), draw(rgb, whole))


def test_the_more_is_skipped_the_stronger_the_tint() -> None:
    grey = np.full((80, 300, 3), 100, np.uint8)
    levels = np.arange(300) * 3 // 300
    skipped = Skipped(lambda top, bottom: np.tile(levels, (bottom - top, 1)), 4, "0 25 50 %")
    overlay = np.concatenate(list(tinted(ArrayPixels(grey), skipped)))
    assert read_label(overlay, 1) == "0 25 50 %"
    found = [overlay[0, column].astype(int) for column in (0, 150, 299)]
    for level, colour in enumerate(found):
        np.testing.assert_array_equal(colour, (100 * (8 - level) + TINT.astype(int) * level) // 8)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(share: float) -> None:
    overlay = draw(np.zeros((80, 80, 3), np.uint8), np.full((80, 80), bool(share)))
    assert read_label(overlay, 1) == f"{100 * share:.1f} %"


@pytest.mark.parametrize("size", [(1, 1), (6, 500), (500, 20)])
def test_a_picture_that_is_smaller_than_the_label_has_none(size: tuple[int, int]) -> None:
    overlay = draw(np.full((*size, 3), 7, np.uint8), np.zeros(size, bool))
    assert (overlay == 7).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_stands_at_the_left_bit_for_bit(photo: Callable, scale: int) -> None:
    """Made by strips, it is MATLAB's of the whole picture; the bands may end anywhere."""
    rgb = photo("coffee", 61, 83)
    ours = rgb.repeat(scale, 0).repeat(scale, 1)
    beside = Beside(ArrayPixels(rgb), scale)
    cuts = [0, 1, 2, 31, 32, 95, len(ours)]
    bands = [beside.next(ours[a:b]) for a, b in pairwise(cuts)]
    both = np.concatenate(bands)
    assert both.shape == beside.shape
    np.testing.assert_array_equal(both[:, : 83 * scale], imresize(rgb, scale))
    np.testing.assert_array_equal(both[:, 83 * scale :], ours)


def test_only_strips_are_asked_for(photo: Callable) -> None:
    picture = Counted(np.resize(photo(), (3000, 40, 3)))
    for rows in tinted(picture, Skipped(lambda top, bottom: np.zeros((bottom - top, 40), bool))):
        assert len(rows) < 2 * ROWS
    assert Counted.most < 2 * ROWS
    Counted.most, beside = 0, Beside(picture, 2)
    for _ in range(0, 6000, 120):
        beside.next(np.zeros((120, 80, 3), np.uint8))
    assert Counted.most <= 60 + 2 * 4


class TestAnyPicture:
    def test_grey_becomes_rgb(self, photo: Callable) -> None:
        grey = photo()[..., :1]
        np.testing.assert_array_equal(to_rgb(grey), grey.repeat(3, 2))

    def test_16_bits_are_rounded(self, photo: Callable) -> None:
        rgb = photo()
        np.testing.assert_array_equal(to_rgb(rgb.astype(np.uint16) * 257), rgb)
        levels = np.array([[[0, 128, 129], [65535, 65406, 65407]]], np.uint16)
        assert to_rgb(levels).tolist() == [[[0, 0, 1], [255, 254, 255]]]

    def test_floats_are_fitted(self) -> None:
        values = np.array([[[-1, 0.5, 2]]], np.float32)
        assert to_rgb(values).tolist() == [[[0, 128, 255]]]

    def test_alpha_lies_on_white(self, photo: Callable) -> None:
        rgb = photo()
        alpha = np.zeros((*rgb.shape[:2], 1), np.uint8)
        alpha[:, 40:] = 255
        seen = to_rgb(np.concatenate([rgb, alpha], axis=2))
        assert (seen[:, :40] == 255).all()
        np.testing.assert_array_equal(seen[:, 40:], rgb[:, 40:])
        assert to_rgb(np.array([[[100, 51]]], np.uint8)).tolist() == [[[224, 224, 224]]]

    def test_the_picture_itself_is_never_drawn_on(self, photo: Callable) -> None:
        rgb = photo()
        before = rgb.copy()
        draw(rgb, np.ones(rgb.shape[:2], bool))
        np.testing.assert_array_equal(rgb, before)
