from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ppsr.models.config import PurePass
from ppsr.models.errors import PictureError, PpsrError
from ppsr.models.pure_pass import pad_to_grid, purity_mask
from ppsr.runtime.canvas import Canvas
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.routing import mask_of

FLOAT = np.dtype(np.float32)


class Spied(ArrayPixels):
    """Pixels that tell which rows were asked for."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012

    def rows(self, top: int, bottom: int) -> Any:
        self.asked.append((top, bottom))
        return super().rows(top, bottom)


@pytest.mark.parametrize("size", [(61, 83), (1, 1), (3, 40), (16, 16)])
@pytest.mark.parametrize("least", [(16, 16), (64, 96)])
def test_padding_is_the_networks_own(
    photo: Callable, size: tuple[int, int], least: tuple[int, int]
) -> None:
    rgb = photo("coffee", *size)
    canvas = Canvas(ArrayPixels(rgb), least)
    (colours,) = canvas.planes(np.arange(canvas.height))
    assert colours.shape == (max(least[0], -(-size[0] // 16) * 16), canvas.width, 3)
    if least == (16, 16):
        np.testing.assert_array_equal(colours, pad_to_grid(rgb).astype(np.float32) / 255)
    wider = np.pad(
        rgb, ((0, canvas.height - size[0]), (0, canvas.width - size[1]), (0, 0)), "symmetric"
    )
    np.testing.assert_array_equal(colours, wider.astype(np.float32) / 255)


def test_sixteen_bits_never_become_eight() -> None:
    levels = np.arange(2**16, dtype=np.uint16).reshape(256, 256, 1)
    canvas = Canvas(ArrayPixels(levels))
    (colours,) = canvas.planes(np.arange(256))
    assert len(np.unique(colours)) == 2**16
    np.testing.assert_array_equal(canvas.merge(colours, None, np.dtype(np.uint16)), levels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_colours_are_multiplied_by_alpha_and_come_back(dtype: Any, channels: int) -> None:
    rng = np.random.default_rng(5)
    most = np.iinfo(dtype).max
    pixels = rng.integers(0, most, (64, 80, channels), dtype, endpoint=True)
    pixels[:8, :, -1] = 0
    pixels[8:16, :, -1] = 1
    canvas = Canvas(ArrayPixels(pixels))
    colours, alpha = canvas.planes(np.arange(64))
    assert (colours[:8] == 0).all()
    assert (colours <= alpha).all()
    back = canvas.merge(colours.copy(), alpha[..., :1], np.dtype(dtype))
    np.testing.assert_array_equal(back, np.where(pixels[..., -1:] > 0, pixels, 0))


def test_floats_beyond_their_range_are_fitted_and_come_back() -> None:
    pixels = np.linspace(-0.5, 7, 16 * 16 * 4, dtype=np.float32).reshape(16, 16, 4)
    pixels[..., 3] = 1
    canvas = Canvas(ArrayPixels(pixels))
    colours, alpha = canvas.planes(np.arange(16))
    assert (colours.min(), colours.max()) == (0, 1)
    back = canvas.merge(colours, alpha[..., :1], FLOAT)
    np.testing.assert_allclose(back, pixels, atol=1e-6)


def test_floats_within_their_range_stay_as_they_are(photo: Callable) -> None:
    pixels = photo("coffee", 32, 48).astype(np.float32) / 300
    canvas = Canvas(ArrayPixels(pixels))
    (colours,) = canvas.planes(np.arange(32))
    np.testing.assert_array_equal(canvas.merge(colours, None, FLOAT), pixels)


def test_the_mask_by_rows_is_the_mask_of_the_whole(photo: Callable) -> None:
    rgb = photo("coffee", 150, 201)
    whole = purity_mask(rgb)
    assert 0.1 < whole.mean() < 0.9
    for step in (1, 16, 37, 150):
        rows = [
            mask_of(PurePass(), ArrayPixels(rgb))(top, min(top + step, 150))
            for top in range(0, 150, step)
        ]
        np.testing.assert_array_equal(np.concatenate(rows), whole)


def test_a_few_rows_are_asked_for_where_a_few_are_needed(photo: Callable) -> None:
    pixels = Spied(photo("coffee", 400, 64))
    pixels.asked.clear()
    mask_of(PurePass(), pixels)(0, 16)
    assert sum(bottom - top for top, bottom in pixels.asked) <= 48
    assert max(bottom for _, bottom in pixels.asked) == 400


def test_numbers_that_are_none_are_told(photo: Callable) -> None:
    canvas = Canvas(ArrayPixels(photo("coffee", 16, 16)))
    broken = np.full((16, 16, 3), np.nan, np.float32)
    with pytest.raises(PpsrError, match="no numbers; export it again as fp32"):
        canvas.merge(broken, None, FLOAT)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda rgb: rgb / 255, r"float64 \(61, 83, 3\)"),
        (lambda rgb: rgb[..., 0], r"uint8 \(61, 83\)"),
        (lambda rgb: rgb.repeat(2, -1)[..., :5], r"uint8 \(61, 83, 5\)"),
        (lambda rgb: rgb[:0], r"uint8 \(0, 83, 3\)"),
        (lambda rgb: rgb.tolist(), "list"),
        (lambda rgb: rgb.astype(np.float32) * np.nan, "float32 with values that are no numbers"),
    ],
)
def test_other_arrays_are_refused(photo: Callable, make: Callable, found: str) -> None:
    expected = "expected a picture uint8, uint16 or float32, H W C with C from 1 to 4"
    with pytest.raises(PictureError, match=f"{expected}, got {found}"):
        ArrayPixels(make(photo()))
