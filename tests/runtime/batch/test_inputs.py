from __future__ import annotations

import io
import os
import sys
from pathlib import Path, PurePath
from types import SimpleNamespace

import pytest

from ppsr.models.errors import UsageError
from ppsr.runtime.batch.inputs import Source, find_inputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files of many names; what is in them does not matter here."""
    monkeypatch.chdir(tmp_path)
    for name in (
        *("in/b.png", "in/a.JPG", "in/notes.txt", "in/.hidden.png", "in/.hidden/c.png"),
        *("in/.ppsr-0123456789abcdef.png", "in/sub/d.heic", "in/sub/deep/e.tiff"),
        *("empty/.keep", "one.webp", "raw.bin", "odd[1].png", "odd1.png"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def found(*arguments: str, **options: object) -> list[str]:
    return [str(source.path) for source in find_inputs(arguments, **options).sources]  # type: ignore[arg-type]


def test_a_folder_gives_its_pictures_by_name(folder: Path) -> None:
    assert found("in") == ["in/a.JPG", "in/b.png"]
    nested = ["in/a.JPG", "in/b.png", "in/sub/d.heic", "in/sub/deep/e.tiff"]
    assert found("in", recursive=True) == nested


def test_a_picture_knows_where_it_lies_below_its_folder(folder: Path) -> None:
    sources = find_inputs(["in", "one.webp"], recursive=True).sources
    below = [source.below for source in sources]
    assert below == [*map(PurePath, ("a.JPG", "b.png", "sub/d.heic", "sub/deep/e.tiff")), below[-1]]
    assert below[-1] == PurePath("one.webp")


def test_what_is_named_is_taken_whatever_its_suffix(folder: Path) -> None:
    assert found("raw.bin", "in/.hidden.png") == ["raw.bin", "in/.hidden.png"]


def test_a_picture_that_is_named_twice_is_taken_once(folder: Path) -> None:
    (folder / "link").symlink_to("in")
    assert found("in/b.png", "in", "./in/../in/b.png", "link/b.png") == ["in/b.png", "in/a.JPG"]


def test_a_pattern_that_the_shell_left_is_expanded_as_by_a_shell(folder: Path) -> None:
    assert found("in/*.png") == ["in/b.png"]
    assert found("in/**/*.tiff") == ["in/sub/deep/e.tiff"]
    assert found("odd[1].png") == ["odd[1].png"], "a file of that very name comes first"


def test_where_outputs_go_is_no_input(folder: Path) -> None:
    kept = ["in/a.JPG", "in/b.png", "in/sub/d.heic"]
    assert found("in", recursive=True, leave_out=[Path("in/sub/../sub/deep")]) == kept
    assert found("in", leave_out=[Path("in")]) == ["in/a.JPG", "in/b.png"], "named as an input"


def test_loops_of_links_end(folder: Path) -> None:
    (folder / "in/sub/loop").symlink_to("..", target_is_directory=True)
    assert len(found("in", recursive=True)) == 4


@pytest.mark.parametrize(
    ("argument", "single"),
    [("one.webp", True), ("in", False), ("in/*.png", False), ("in/sub", False)],
)
def test_one_file_by_name_is_told_from_a_folder_that_holds_one(
    folder: Path, argument: str, single: bool
) -> None:
    assert find_inputs([argument]).single is single
    assert not find_inputs([argument, "odd1.png"]).single


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"data")))
    inputs = find_inputs(["-"])
    assert inputs.single
    assert inputs.sources == (Source(None, PurePath("stdin"), b"data"),)
    assert inputs.sources[0].name == "standard input"


def test_what_is_missing_may_fail_in_its_turn(folder: Path) -> None:
    inputs = find_inputs(["one.webp", "no.png"], keep_missing=True)
    assert [source.name for source in inputs.sources] == ["one.webp", "no.png"]
    assert find_inputs(["no.png"], keep_missing=True).single
    with pytest.raises(UsageError, match="empty holds no picture"):
        find_inputs(["empty"], keep_missing=True)


REFUSED = {
    "nothing": (["no.png"], "no.png does not exist"),
    "no match": (["*.gif"], r"no file matches \*\.gif"),
    "empty folder": (["empty"], "empty holds no picture; expected files that end in .png, .jpg"),
    "only below": (["above"], "--recursive looks into the folders in it, too"),
    "leftover": (["in/.ppsr-0123456789abcdef.png"], "half an output"),
    "pipe": (["pipe"], "not a regular file"),
    "standard input twice": (["-", "-"], "give no other beside it"),
    "no name": (["a\0b"], "does not exist"),
    "too long": (["a" * 5000], "cannot read .*too long"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_input_is_refused(folder: Path, name: str) -> None:
    (folder / "above/below").mkdir(parents=True)
    if name == "pipe":
        os.mkfifo("pipe")
    arguments, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        find_inputs(arguments)


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(UsageError, match="is a terminal"):
        find_inputs(["-"])


def test_a_folder_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match="cannot read the folder in: Permission denied"):
        find_inputs(["in"])
