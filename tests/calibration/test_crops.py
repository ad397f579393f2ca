"""Crops come as asked for, differ, and cover the whole range of purity."""

from __future__ import annotations

import numpy as np
import pytest

from ppsr.calibration.crops import Crop, Picture, sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.models.pure_pass import purity_mask

SIZES = [(64, 64), (48, 80), (33, 57), (96, 64), (16, 16), (72, 100), (64, 64)]


@pytest.fixture(scope="module")
def photo() -> Picture:
    return "coffee", sample_photo()


@pytest.fixture(scope="module")
def crops(photo: Picture) -> list[Crop]:
    return sample_crops([photo], SIZES)


def windows(crops: list[Crop]) -> list[tuple[object, ...]]:
    return [(crop.source, crop.top, crop.left, crop.rgb.shape) for crop in crops]


def test_the_photo_has_flat_and_busy_parts(photo: Picture) -> None:
    rgb = photo[1]
    assert rgb.dtype == np.uint8
    assert rgb.shape == (300, 430, 3)
    assert 0.4 < purity_mask(rgb).mean() < 0.7


def test_sizes_and_content_are_exact(photo: Picture, crops: list[Crop]) -> None:
    assert [crop.rgb.shape for crop in crops] == [(*size, 3) for size in SIZES]
    for crop in crops:
        height, width = crop.rgb.shape[:2]
        window = photo[1][crop.top : crop.top + height, crop.left : crop.left + width]
        np.testing.assert_array_equal(crop.rgb, window)


def test_the_share_is_that_of_the_crop_itself(crops: list[Crop]) -> None:
    assert [crop.pure for crop in crops] == [purity_mask(crop.rgb).mean() for crop in crops]


def test_same_seed_same_crops_other_seed_others(photo: Picture, crops: list[Crop]) -> None:
    assert windows(sample_crops([photo], SIZES)) == windows(crops)
    assert windows(sample_crops([photo], SIZES, seed=1)) != windows(crops)


def test_shares_spread_evenly_over_the_range(photo: Picture) -> None:
    count = 6
    shares = sorted(crop.pure for crop in sample_crops([photo], [(64, 64)] * count))
    assert shares[0] < 0.1
    assert shares[-1] > 0.9
    # The range is at most 1 wide; each crop may miss its step by a tenth of it.
    assert max(np.diff(shares)) < 1 / (count - 1) + 0.1


def test_both_ends_are_met_among_mixed_sizes(crops: list[Crop]) -> None:
    shares = [crop.pure for crop in crops]
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_no_window_comes_twice(photo: Picture) -> None:
    crops = sample_crops([photo], [(200, 240)] * 12)
    assert len(set(windows(crops))) == 12


def test_every_picture_is_looked_at() -> None:
    flat = np.full((40, 40, 3), 200, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    least, most = sorted(
        sample_crops([("flat", flat), ("noise", noise)], [(32, 32)] * 2), key=lambda crop: crop.pure
    )
    assert (least.source, most.source) == ("noise", "flat")


def test_no_sizes_no_crops(photo: Picture) -> None:
    assert sample_crops([photo], []) == []


@pytest.mark.parametrize("size", [(301, 64), (64, 431)])
def test_too_large_sizes_are_refused(photo: Picture, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"fit in coffee, 300x430 .* got {size[0]}x{size[1]}"):
        sample_crops([photo], [size])


def test_other_impossible_requests_are_refused(photo: Picture) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        sample_crops([], [(8, 8)])
    with pytest.raises(ValueError, match="at least 1x1 pixels, got 0x8"):
        sample_crops([photo], [(0, 8)])
    with pytest.raises(ValueError, match="got 2 crops of 300x430"):
        sample_crops([photo], [(300, 430)] * 2)
