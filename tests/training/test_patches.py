from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ppsr.models.errors import PictureError, UsageError
from ppsr.runtime.dataset import find_pictures
from ppsr.runtime.imresize import degrade
from ppsr.runtime.metrics import psnr
from ppsr.training.patches import Patches, _orient, _texture


@pytest.fixture(scope="module")
def patches(photos: Path) -> Patches:
    return Patches.read(find_pictures(photos), scale=2, patch=16)


def test_a_batch_has_its_shapes(patches: Patches) -> None:
    low, high = patches.batch(seed=0, step=0, size=5)
    assert (low.shape, high.shape) == ((5, 16, 16, 3), (5, 32, 32, 3))
    assert low.dtype == high.dtype == np.uint8


def test_a_batch_follows_from_seed_and_step(patches: Patches) -> None:
    first = patches.batch(seed=1, step=7, size=4, draws=2)
    for a, b in zip(first, patches.batch(seed=1, step=7, size=4, draws=2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], patches.batch(seed=1, step=8, size=4, draws=2)[0])
    assert not np.array_equal(first[0], patches.batch(seed=2, step=7, size=4, draws=2)[0])


def test_both_halves_show_the_same(patches: Patches) -> None:
    """Shrinking the ground truth again gives the low resolution, but for the patch's border.

    A flip or a crop that hits one half alone is far below 40 dB.
    """
    for low, high in zip(*patches.batch(seed=0, step=3, size=24), strict=True):
        again, _ = degrade(high, 2)
        assert psnr(again[4:-4, 4:-4], low[4:-4, 4:-4]) > 40


def test_eight_orientations() -> None:
    rgb = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    seen = {_orient(rgb, turn).tobytes() for turn in range(8)}
    turns = [np.rot90(side, k).tobytes() for side in (rgb, rgb[:, ::-1]) for k in range(4)]
    assert seen == set(turns)


def test_more_draws_bring_more_texture(patches: Patches) -> None:
    def mean(draws: int) -> float:
        low, _ = patches.batch(seed=0, step=0, size=64, draws=draws)
        return float(np.mean([_texture(patch) for patch in low]))

    assert mean(3) > 1.1 * mean(1)


def test_pictures_are_drawn_by_their_area() -> None:
    large = np.full((60, 60, 3), 200, np.uint8)
    small = np.full((20, 20, 3), 100, np.uint8)
    pairs = [degrade(picture, 2) for picture in (small, large)]
    low, _ = Patches(pairs, scale=2, patch=10).batch(seed=0, step=0, size=400)
    share = (low[:, 0, 0, 0] == 200).mean()
    assert 0.85 < share < 0.95  # 9 of 10


def test_every_position_can_be_drawn() -> None:
    pair = degrade(np.zeros((36, 34, 3), np.uint8), 2)
    pair[0][:] = np.arange(18 * 17).reshape(18, 17, 1) % 251
    low, _ = Patches([pair], scale=2, patch=16).batch(seed=0, step=0, size=300)
    assert len({int(patch.sum(dtype=int)) for patch in low}) == 3 * 2


def test_pictures_that_are_too_small_are_left_out(photos: Path) -> None:
    fine = degrade(np.zeros((64, 64, 3), np.uint8), 2)
    small = degrade(np.zeros((30, 90, 3), np.uint8), 2)
    assert (len(Patches([fine, small], 2, 16)), Patches([fine, small], 2, 16).too_small) == (1, 1)
    with pytest.raises(UsageError, match="at least 32 x 32 pixels, got 1 smaller"):
        Patches([small], 2, 16)


def test_reading_tells_how_far_it_is(photos: Path) -> None:
    seen: list[tuple[int, int]] = []
    Patches.read(find_pictures(photos), 2, 16, lambda *state: seen.append(state))
    assert seen == [(1, 2), (2, 2)]


def test_a_damaged_picture_is_named(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "torn.png").write_bytes((photos / "coffee.png").read_bytes()[:900])
    with pytest.raises(PictureError, match=r"torn\.png"):
        Patches.read([tmp_path / "torn.png"], 2, 16)
    assert os.listdir(tmp_path) == ["torn.png"]
