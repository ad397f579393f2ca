"""Samples: crops in pairs, from all regimes of purity, none of a picture on both sides."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from ppsr.calibration import samples as module
from ppsr.calibration.photo import sample_photo
from ppsr.calibration.samples import (
    LOOKED_AT,
    PictureFile,
    Sample,
    Samples,
    draw,
    list_pictures,
    split,
)
from ppsr.models.errors import PictureError, UsageError
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime.dataset import read_ground_truth
from ppsr.runtime.imresize import degrade
from ppsr.runtime.pictures.encode import PictureWriter, choose_encoding
from ppsr.runtime.pixels import ArrayPixels

Rgb = npt.NDArray[np.uint8]
VAL = Path("../shared/data/val")


def save(path: Path, rgb: Rgb) -> Path:
    encoding = choose_encoding("png", ArrayPixels(rgb), scale=1, depth=None, quality=None)
    with PictureWriter(path, rgb.shape, encoding, None) as writer:
        writer.write(np.ascontiguousarray(rgb))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos of mixed sizes, odd ones and a small one, one of them in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    photos = {
        "coffee.png": sample_photo(),
        "astronaut.png": data.astronaut()[:311, :257],
        "below/cat.png": data.cat()[:201, :303],
        "rocket.png": data.rocket()[:240, 100:420],
        "small.png": data.astronaut()[60:121, 180:267],
    }
    for name, rgb in photos.items():
        save(folder / name, rgb)
    (folder / "notes.txt").write_text("no picture")
    return folder


def purity(sample: Sample) -> float:
    return float(purity_mask(sample.lr).mean())


def same(first: Samples, second: Samples) -> bool:
    return [(a.name, a.lr.tobytes(), a.hr.tobytes()) for a in first] == [
        (b.name, b.lr.tobytes(), b.hr.tobytes()) for b in second
    ]


def test_pictures_are_named_by_where_they_lie(folder: Path) -> None:
    pictures = list_pictures([folder])
    names = ["astronaut.png", "below/cat.png", "coffee.png", "rocket.png", "small.png"]
    assert pictures == [PictureFile(name, folder / name) for name in names]
    one = list_pictures([folder / "below/cat.png"])
    assert one == [PictureFile("cat.png", folder / "below/cat.png")]


def test_a_copy_is_the_same_picture(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "coffee.png", tmp_path / "other.png")
    shutil.copy(folder / "rocket.png", tmp_path / "coffee.png")
    save(tmp_path / "rocket.png", sample_photo()[::-1])
    found = list_pictures([folder, tmp_path, folder])
    new = PictureFile("rocket.png (2)", tmp_path / "rocket.png")
    assert found == sorted([*list_pictures([folder]), new], key=lambda one: one.name)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pairs_are_crops_of_the_shrunk_picture_and_of_its_truth(folder: Path, scale: int) -> None:
    found = list(draw(list_pictures([folder]), scale, 6, side=48))
    assert len(found) == len({one.name for one in found}) == 6
    for one in found:
        name, corner = one.name.rsplit(" ", 1)
        left, top = map(int, corner.split(","))
        small, truth = degrade(read_ground_truth(folder / name), scale)
        height, width = one.lr.shape[:2]
        assert (height, width) == tuple(min(48, side) for side in small.shape[:2])
        np.testing.assert_array_equal(one.lr, small[top : top + height, left : left + width])
        assert one.hr.shape == (scale * height, scale * width, 3)
        y, x = scale * top, scale * left
        np.testing.assert_array_equal(one.hr, truth[y : y + scale * height, x : x + scale * width])


def test_the_same_seed_gives_the_same_crops_in_every_pass(folder: Path) -> None:
    pictures = list_pictures([folder])
    found = draw(pictures, 2, 8, side=48)
    assert same(found, found)
    assert same(found, draw(list_pictures([folder]), 2, 8, side=48))
    others = [draw(pictures, 2, 8, side=48, seed=seed).windows for seed in (1, 2, 3)]
    assert found.windows not in others


def test_shares_of_pure_pixels_are_spread_and_pictures_mixed(folder: Path) -> None:
    count = 9
    found = draw(list_pictures([folder]), 2, count, side=48)
    shares = sorted(purity(one) for one in found)
    assert sorted(window.pure for window in found.windows) == shares
    assert shares[0] < 0.1
    assert shares[-1] > 0.9
    # A gap is a step, half a step more at each end, and the hole in what there is.
    assert max(np.diff(shares)) < 2 / (count - 1) + 0.05
    # The small picture is one window only.
    taken = Counter(window.picture.name for window in found.windows)
    assert len(taken) >= 4
    assert max(taken.values()) <= 3
    # By chance alone they are not: windows in the middle outnumber both ends.
    every = [w.pure for w in draw(list_pictures([folder]), 2, 400, side=48).windows]
    assert len(every) > 50
    assert np.std(shares) > np.std(every)


@pytest.mark.skipif(not VAL.is_dir(), reason="there are no pictures to calibrate with")
def test_real_pictures_to_calibrate_with_give_every_regime() -> None:
    pictures = list_pictures([VAL])
    inside, outside = split(pictures)
    assert (len(inside), len(outside)) == (21, 20)
    shares = sorted(window.pure for window in draw(inside, 2, 8).windows)
    assert shares[0] < 0.15
    assert shares[-1] > 0.85
    assert max(np.diff(shares)) < 0.3


def test_no_window_twice_and_no_more_than_there_are(folder: Path) -> None:
    found = draw(list_pictures([folder / "small.png"]), 2, 50, side=96).windows
    assert [(w.top, w.left, w.size) for w in found] == [(0, 0, (30, 43))]
    found = draw(list_pictures([folder / "coffee.png"]), 2, 30).windows
    assert len(found) == 30
    assert len({(w.top, w.left) for w in found}) == 30
    assert len(draw(list_pictures([folder / "coffee.png"]), 2, 1)) == 1


def test_small_pictures_are_left_out_and_said_where_nothing_is_left(tmp_path: Path) -> None:
    save(tmp_path / "a.png", sample_photo()[:31, :200])
    save(tmp_path / "b.png", sample_photo()[:32, :33])
    found = draw(list_pictures([tmp_path]), 2, 4)
    assert [(w.picture.name, w.size) for w in found.windows] == [("b.png", (16, 16))]
    with pytest.raises(UsageError, match="pictures of at least 64x64 pixels, got none; give larg"):
        draw(list_pictures([tmp_path]), 4, 4)


@pytest.mark.parametrize("level", [0, 90])
def test_a_flat_picture_is_a_sample(tmp_path: Path, level: int) -> None:
    save(tmp_path / "flat.png", np.full((70, 90, 3), level, np.uint8))
    found = list(draw(list_pictures([tmp_path]), 2, 2, side=32))
    assert len(found) == 2
    assert all((one.lr == level).all() and purity(one) == 1 for one in found)


def test_halves_share_no_picture(folder: Path) -> None:
    pictures = list_pictures([folder])
    inside, outside = split(pictures)
    assert (len(inside), len(outside)) == (3, 2)
    assert sorted([*inside, *outside], key=lambda one: one.name) == pictures
    assert split(pictures) == (inside, outside)
    assert len({tuple(split(pictures, seed=seed)[1]) for seed in range(20)}) > 3
    names = [{one.name for one in draw(half, 2, 8, side=48)} for half in (inside, outside)]
    assert not names[0] & names[1]


def test_one_picture_cannot_be_split(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "coffee.png", tmp_path / "a.png")
    shutil.copy(folder / "coffee.png", tmp_path / "b.png")
    with pytest.raises(UsageError, match=r"at least two different pictures, .* got 1; give"):
        split(list_pictures([tmp_path]))


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no picture"):
        list_pictures([tmp_path])
    with pytest.raises(UsageError, match="expected a folder of pictures, got nothing there"):
        list_pictures([tmp_path / "nowhere"])


def test_a_damaged_picture_is_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "coffee.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"half\.png .*damaged"):
        draw(list_pictures([tmp_path]), 2, 1)
    (tmp_path / "half.png").write_text("text")
    with pytest.raises(PictureError, match=r"half\.png"):
        draw(list_pictures([tmp_path]), 2, 1)


def test_a_picture_that_may_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PictureError, match=r"cannot read .*astronaut\.png: Permission denied"):
        list_pictures([folder])


def test_what_cannot_be_drawn_is_refused(folder: Path) -> None:
    for count, side in ((0, 96), (4, 15)):
        with pytest.raises(UsageError, match=f"16 pixels a side, got {count} of {side}"):
            draw(list_pictures([folder]), 2, count, side=side)


def test_pictures_are_in_memory_one_at_a_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3 * LOOKED_AT):
        save(tmp_path / f"{number}.png", sample_photo()[number : number + 64, :80])
    read: list[weakref.ref[Rgb]] = []
    most = 0

    def watch(path: Path) -> Rgb:
        nonlocal most
        gc.collect()
        most = max(most, sum(one() is not None for one in read))
        rgb = read_ground_truth(path)
        read.append(weakref.ref(rgb))
        return rgb

    monkeypatch.setattr(module, "read_ground_truth", watch)
    chosen = draw(list_pictures([tmp_path]), 2, 2)
    assert len(read) == 2 * LOOKED_AT  # Not all of them.
    assert len(list(chosen)) == 2
    assert len(read) == 2 * LOOKED_AT + len({window.picture for window in chosen.windows})
    assert most <= 1
