from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppsr.models.errors import PictureError, UsageError
from ppsr.runtime.dataset import find_pictures, find_sets, read_ground_truth


def test_finds_pictures_at_any_depth_in_order(tmp_path: Path) -> None:
    wanted = ["a.PNG", "b.webp", "c.jpeg", "deep/er/a.tif", "z.jpg", "z.tiff"]
    others = ["manifest.csv", "a.bmp", ".hidden.png", ".cache/a.png", "deep/.b/a.png", "png"]
    for name in reversed(wanted + others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"any")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert found == wanted


def test_a_hidden_folder_may_be_named_itself(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.png").write_bytes(b"any")
    assert find_pictures(tmp_path / ".data") == [tmp_path / ".data" / "a.png"]


def test_what_holds_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    for path, message in (
        (tmp_path, "holds no picture; expected files in .png, "),
        (tmp_path / "a.csv", "expected a folder of pictures, got a file: "),
        (tmp_path / "no", "expected a folder of pictures, got nothing there: "),
    ):
        with pytest.raises(UsageError, match=message):
            find_pictures(path)


def test_sets_are_named_by_folder_and_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two" / "one"
    for name in ("one/b.png", "one/a.png", "one/sub/c.png", "two/one/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"any")
    monkeypatch.chdir(one)
    (found,) = find_sets([Path()], limit=2)
    assert (found.name, found.folder) == ("one", Path())
    assert found.paths == (Path("a.png"), Path("b.png"))
    assert [found.name for found in find_sets([two, one / "sub"])] == ["one", "sub"]
    assert [found.name for found in find_sets([one, two])] == [str(one), str(two)]
    for again in (one, Path()):
        with pytest.raises(UsageError, match="is given twice"):
            find_sets([one, again])
    with pytest.raises(UsageError, match="got nothing there"):
        find_sets([one, tmp_path / "no"])


def test_reads_colour_as_it_is_and_grey_as_three_channels(tmp_path: Path, photo: Callable) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    grey = Image.fromarray(photo()).convert("L")
    grey.save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_ground_truth(tmp_path / "a.png"), photo())
    expected = np.dstack([np.asarray(grey)] * 3)
    np.testing.assert_array_equal(read_ground_truth(tmp_path / "b.png"), expected)
    grey.convert("LA").save(tmp_path / "c.png")
    with pytest.raises(PictureError, match="grey with alpha"):
        read_ground_truth(tmp_path / "c.png")
