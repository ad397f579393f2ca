"""The mask against the paper's equations, pixel by pixel, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppsr.models import purity_mask
from ppsr.models.config import PurePass
from ppsr.models.pure_pass import (
    BLOCK,
    CENTRES,
    LARGEST,
    active_tokens,
    colour_labels,
    pad_to_grid,
    pure_mask,
    pure_pixels,
    pure_windows,
)

COLOURS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (230, 23, 23), (23, 230, 230), (90, 90, 91)]
CROPS = [
    ("coffee", 37, 50, 100, 180),
    ("coffee", 48, 64, 0, 0),
    ("chelsea", 21, 43, 60, 120),
    ("astronaut", 40, 24, 0, 200),
    ("astronaut", 33, 70, 300, 20),
]


def exact_centres() -> list[tuple[Fraction, ...]]:
    """Equation 1 with fractions, by the textbook conversion from HSV to RGB."""
    s = v = Fraction(9, 10)
    centres = []
    for k in range(16):
        h = Fraction(k, 16) * 6
        x = 1 - abs(h % 2 - 1)
        red, green, blue = [(1, x, 0), (x, 1, 0), (0, 1, x), (0, x, 1), (x, 0, 1), (1, 0, x)][
            int(h)
        ]
        centres.append(tuple(v * (1 - s) + v * s * c for c in (red, green, blue)))
    return centres


def exact_label(pixel) -> int:
    """Equation 2 with integers: distances in units of 1/40800 = 1/lcm(255, 800)."""
    centres = [[int(c * 40800) for c in centre] for centre in exact_centres()]
    distances = [
        sum((160 * int(p) - c) ** 2 for p, c in zip(pixel, centre, strict=True))
        for centre in centres
    ]
    return distances.index(min(distances))


def exact_windows(labels: dict[tuple[int, int], int], size: tuple[int, int]) -> np.ndarray:
    """Equations 3 to 5: m(u, v) from the window's first pixel, then M. 1 = not pure."""
    mask = np.zeros(size, dtype=int)
    for i, j in np.ndindex(size):
        u, v = i // 8, j // 8
        if labels[i, j] != labels[u * 8, v * 8]:
            mask[u * 8 : u * 8 + 8, v * 8 : v * 8 + 8] = 1
    return mask


def exact_mask(rgb: np.ndarray, shift: int = 4) -> np.ndarray:
    """Equations 2 to 7 on the padded picture, one pixel at a time -> True = pure."""
    height, width = rgb.shape[:2]
    rows, columns = (
        [min(i % (2 * n), 2 * n - 1 - i % (2 * n)) for i in range(n + -n % 16)]
        for n in (height, width)
    )
    size = len(rows), len(columns)
    known = {colour: exact_label(colour) for colour in {tuple(p) for p in rgb.reshape(-1, 3)}}
    label = {
        (i, j): known[tuple(rgb[rows[i], columns[j]])]
        for i in range(size[0])
        for j in range(size[1])
    }
    rolled = {
        ((i + shift) % size[0], (j + shift) % size[1]): value for (i, j), value in label.items()
    }
    here, there = exact_windows(label, size), exact_windows(rolled, size)
    fused = np.zeros(size, dtype=int)
    for i, j in np.ndindex(size):
        fused[i, j] = here[i, j] * there[(i + shift) % size[0], (j + shift) % size[1]]
    return fused[:height, :width] == 0


def test_centres_are_the_hue_ring():
    assert [tuple(c * Fraction(800, 9) for c in centre) for centre in exact_centres()] == [
        tuple(row) for row in CENTRES.tolist()
    ]


@pytest.mark.parametrize("crop", CROPS)
def test_mask_is_the_papers(photo, crop):
    rgb = photo(*crop)
    np.testing.assert_array_equal(purity_mask(rgb), exact_mask(rgb))


def test_crops_hold_pure_and_impure_pixels(photo):
    shares = [purity_mask(photo(*crop)).mean() for crop in CROPS]
    assert sum(0.05 < share < 0.95 for share in shares) >= 3


def test_greys_change_label_eight_times():
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    labels = colour_labels(greys)[0]
    assert (labels[1:] != labels[:-1]).sum() == 8
    assert labels[0] == 0
    assert labels.tolist() == [exact_label((grey,) * 3) for grey in range(256)]


def test_labels_of_random_colours_are_exact():
    rgb = np.random.default_rng(0).integers(0, 256, (1, 2000, 3), dtype=np.uint8)
    assert colour_labels(rgb)[0].tolist() == [exact_label(pixel) for pixel in rgb[0]]


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (16, 400), (1, 1), (3, 40), (23, 17)])
def test_any_size_keeps_its_shape(size):
    rgb = np.random.default_rng(1).integers(0, 3, (*size, 3), dtype=np.uint8) * 60
    mask = purity_mask(rgb)
    assert mask.shape == size
    assert mask.dtype == np.bool_
    padded = pad_to_grid(rgb)
    assert all(side % 16 == 0 for side in padded.shape[:2])
    np.testing.assert_array_equal(mask, pure_pixels(padded)[: size[0], : size[1]])


def test_fused_mask_holds_both_single_masks(photo):
    rgb = photo("coffee", 96, 128)
    labels = colour_labels(rgb)
    single = pure_windows(labels)
    rolled = np.roll(pure_windows(np.roll(labels, (4, 4), (0, 1))), (-4, -4), (0, 1))
    fused = pure_pixels(rgb)
    assert (fused >= single).all()
    assert (fused >= rolled).all()
    assert single.sum() < fused.sum() > rolled.sum()
    np.testing.assert_array_equal(fused, single | rolled)
    np.testing.assert_array_equal(pure_pixels(rgb, shift=0), single)


def test_shift_direction_is_irrelevant(photo):
    rgb = photo("coffee", 96, 128)
    np.testing.assert_array_equal(pure_pixels(rgb, shift=4), pure_pixels(rgb, shift=-4))
    assert (purity_mask(rgb, shift=4) != purity_mask(rgb, shift=2)).any()


def test_shift_joins_opposite_borders():
    rgb = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    corners = np.array([0, 1, 2, 3, 12, 13, 14, 15])
    rgb[np.ix_(corners, corners)] = (200, 20, 20)
    wanted = np.zeros((16, 16), dtype=bool)
    wanted[np.ix_(corners, corners)] = True
    np.testing.assert_array_equal(purity_mask(rgb), wanted)


def test_one_pixel_spoils_one_window():
    rgb = np.full((32, 32, 3), (200, 20, 20), dtype=np.uint8)
    rgb[9, 22] = (20, 200, 20)
    wanted = np.ones((32, 32), dtype=bool)
    wanted[8:16, 16:24] = False
    np.testing.assert_array_equal(purity_mask(rgb, shift=0), wanted)
    wanted[:] = True
    wanted[8:12, 20:24] = False  # windows 8:16, 16:24 and, shifted, 4:12, 20:28
    np.testing.assert_array_equal(purity_mask(rgb), wanted)


def test_one_centre_makes_everything_pure(photo):
    rgb = photo("chelsea", 32, 32)
    assert purity_mask(rgb, centres=CENTRES[:1]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((16, 16, 3), dtype=np.float32),
        np.zeros((16, 16, 3), dtype=np.uint16),
        np.zeros((16, 16), dtype=np.uint8),
        np.zeros((16, 16, 4), dtype=np.uint8),
        np.zeros((3, 16, 16), dtype=np.uint8),
        np.zeros((0, 16, 3), dtype=np.uint8),
        np.zeros((1, 16, 16, 3), dtype=np.uint8),
    ],
    ids=lambda wrong: f"{wrong.dtype}{wrong.shape}",
)
def test_wrong_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a picture uint8 H W 3, got"):
        purity_mask(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": [[[0, 0, 0]]]}, "expected a picture uint8 H W 3, got list"),
        ({"window": 0}, "a window that divides 16, got 0"),
        ({"window": 5}, "a window that divides 16, got 5"),
        ({"window": 32}, "a window that divides 16, got 32"),
        ({"window": 8.0}, "a window that divides 16, got 8.0"),
        ({"window": True}, "a window that divides 16, got True"),
        ({"shift": 8}, "a shift from 0 to 7, got 8"),
        ({"shift": -1}, "a shift from 0 to 7, got -1"),
        ({"shift": 0.0}, "a shift from 0 to 7, got 0.0"),
        ({"shift": False}, "a shift from 0 to 7, got False"),
        ({"centres": CENTRES.tolist()}, "centres as an array, got list"),
        ({"centres": CENTRES[:0]}, "1 to 255 centres, got 0 rows"),
        ({"centres": np.ones((300, 3), np.int32)}, "1 to 255 centres, got 300 rows"),
        ({"centres": np.array(5)}, "1 to 255 centres, got 5"),
        ({"centres": CENTRES[0]}, "three ints from 0 to 88, got 80"),
        ({"centres": CENTRES[:, :2]}, r"three ints from 0 to 88, got \[80, 8\]"),
        ({"centres": CENTRES[None]}, "three ints from 0 to 88"),
        ({"centres": CENTRES / 2}, "three ints from 0 to 88"),
        ({"centres": CENTRES > 8}, "three ints from 0 to 88"),
        ({"centres": CENTRES - 9}, "three ints from 0 to 88"),
        ({"centres": CENTRES + 9}, "three ints from 0 to 88"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(changes, message):
    arguments = {"rgb": np.zeros((16, 16, 3), dtype=np.uint8), **changes}
    with pytest.raises(ValueError, match=message):
        purity_mask(**arguments)
    rest = {name: value for name, value in changes.items() if name in ("window", "shift")}
    if rest:
        with pytest.raises(ValueError, match=message):
            PurePass(**rest)


def test_centres_of_any_integer_type_are_the_same(photo):
    rgb = photo(*CROPS[0])
    for dtype in (np.uint8, np.int8, np.int64):
        np.testing.assert_array_equal(
            purity_mask(rgb, centres=CENTRES.astype(dtype)), purity_mask(rgb)
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"centres": ()},
        {"centres": ((1, 2),)},
        {"centres": (("a", 2, 3),)},
        {"centres": ((1, 2, True),)},
        {"centres": ((1, 2, 89),)},
        {"centres": ((1, 2, -1),)},
        {"centres": (5,)},
        {"centres": 5},
        {"centres": ((1, 2, 3),) * 256},
        {"compensation": 1},
        {"compensation": None},
    ],
    ids=str,
)
def test_settings_are_checked_where_they_are_made(changes):
    with pytest.raises(ValueError, match="expected"):
        PurePass(**changes)


def test_sums_of_the_largest_centres_are_exact():
    """With and without the first term, as the module states: no float32 rounds them."""
    scores = [459 * b**2 - 320 * b * v for b in range(LARGEST + 1) for v in (0, 255)]
    assert max(map(abs, scores)) < 3.7e6
    assert 3 * max(map(abs, scores)) < 2**24
    assert 3 * 320 * LARGEST * 255 < 2**25


def test_active_tokens_are_raster_indices():
    pure = np.array([[True, False, True], [False, False, True]])
    tokens = active_tokens(pure)
    assert tokens.tolist() == [1, 3, 4]
    assert tokens.dtype == np.int64


few_colours = arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 5)
)


@settings(max_examples=30, deadline=None)
@given(few_colours, st.integers(0, 7))
def test_any_picture_gives_the_papers_mask(index, shift):
    rgb = np.array(COLOURS, dtype=np.uint8)[index]
    np.testing.assert_array_equal(purity_mask(rgb, shift=shift), exact_mask(rgb, shift))


def test_labels_do_not_depend_on_the_block_they_are_made_in() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, BLOCK - 7, 3), dtype=np.uint8)
    parts = [colour_labels(rgb[row : row + 1]) for row in range(3)]
    np.testing.assert_array_equal(colour_labels(rgb), np.concatenate(parts))


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_mask_comes_back_from_the_active_tokens(share: float) -> None:
    pure = np.random.default_rng(0).random((16, 32)) < share
    np.testing.assert_array_equal(pure_mask(active_tokens(pure), pure.shape), pure)
