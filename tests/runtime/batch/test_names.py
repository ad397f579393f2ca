"""Where outputs go: names.py and jobs.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppsr.models.errors import UsageError
from ppsr.runtime.batch.inputs import find_inputs
from ppsr.runtime.batch.jobs import Job, plan
from ppsr.runtime.batch.names import FORMATS, Naming


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files of many names; what is in them does not matter here."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/sub/a.JPEG", "in/sub/v1.2.heic", "one.png", "raw.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def jobs(*arguments: str, skip_existing: bool = False, **options: str) -> list[Job]:
    naming = Naming(**options)
    inputs = find_inputs(arguments, recursive=True, leave_out=naming.folders)
    return plan(inputs, naming, scale=2, model="pp-atd-light", skip_existing=skip_existing)


def outputs(*arguments: str, **options: str) -> list[str]:
    return [str(job.output) for job in jobs(*arguments, **options)]


def test_beside_the_inputs(folder: Path) -> None:
    """HEIC cannot be written, and what has no suffix of a picture names no format: PNG."""
    names = ["in/a_x2.png", "in/sub/a_x2.JPEG", "in/sub/v1.2_x2.png"]
    assert outputs("in") == names
    assert outputs("raw.bin") == ["raw_x2.png"]
    assert [job.format for job in jobs("in")] == ["png", "jpeg", "png"]


def test_a_tree_is_mirrored(folder: Path) -> None:
    names = ["out/a_x2.png", "out/sub/a_x2.JPEG", "out/sub/v1.2_x2.png"]
    assert outputs("in", output="out") == names
    assert outputs("in/a.png", "one.png", output="out") == ["out/a_x2.png", "out/one_x2.png"]
    assert not (folder / "out").exists(), "made when there is something to put into it"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"output": "large.webp"}, "large.webp"),
        ({"output": "large/"}, "large/one_x2.png"),
        ({"output": "in"}, "in/one_x2.png"),
        ({"output": "large", "format": "tiff"}, "large"),
        ({"output": "in", "format": "tiff"}, "in/one_x2.tif"),
        ({"format": "jpeg"}, "one_x2.jpg"),
        ({"template": "{stem}@{scale}"}, "one@2.png"),
        ({"template": "{model}-{stem}{suffix}"}, "pp-atd-light-one.png"),
        ({"template": "{stem}.{format}", "format": "jpeg"}, "one.jpeg"),
        ({"template": "{stem}.large.webp"}, "one.large.webp"),
        ({"template": "{{{stem}}}"}, "{one}.png"),
    ],
)
def test_names_of_one(folder: Path, options: dict[str, str], expected: str) -> None:
    assert outputs("one.png", **options) == [expected]


def test_the_format_follows_the_name(folder: Path) -> None:
    assert jobs("one.png", template="{stem}.large.webp")[0].format == "webp"
    assert jobs("one.png", output="out", format="avif")[0].format == "avif"
    assert jobs("one.png", output="-")[0].format is None, "that of the input"
    assert jobs("one.png", output="-")[0].targets == []
    assert set(FORMATS) == {"png", "jpeg", "webp", "tiff", "avif"}


def test_overlays_have_folders_of_their_own(folder: Path) -> None:
    for job in jobs("in", output="out", mask="masks", compare="compared"):
        assert job.output is not None
        below = job.output.relative_to("out")
        assert job.targets == [job.output, Path("masks", below), Path("compared", below)]
    assert jobs("one.png", mask="m.png")[0].mask == Path("m.png")


REFUSED = {
    "the input": (["one.png"], {"output": "one.png"}, "one.png is the input"),
    "a link to the input": (["one.png"], {"output": "link.png"}, "link.png is the input"),
    "the input, by template": (["in"], {"template": "{stem}"}, "in/a.png is the input"),
    "the input as a mask": (["one.png"], {"mask": "one.png"}, "one.png is the input"),
    "another input": (
        ["one.png", "in/a.png"],
        {"output": "in", "template": "{stem}{scale}"},
        "in/one2.png, to be made of one.png, is itself an input",
    ),
    "two inputs, one output": (
        ["in"],
        {"output": "out", "template": "x", "format": "png"},
        "in/sub/a.JPEG and in/sub/v1.2.heic would both be written to out/sub/x.png",
    ),
    "two outputs in one file": (
        ["one.png"],
        {"output": "x.png", "mask": "./x.png"},
        "of their own",
    ),
    "several into a file": (["in"], {"output": "x.png"}, "--output takes a folder .*end it with /"),
    "several into what is a file": (["in"], {"mask": "raw.bin"}, "--mask takes a folder"),
    "several into a stream": (["in"], {"output": "-"}, "standard output takes one picture"),
    "a mask into a stream": (["one.png"], {"mask": "-"}, "--mask takes a file"),
    "below a file": (["in"], {"output": "raw.bin/x/"}, "raw.bin is no folder"),
    "no folder": (["one.png"], {"output": "no/x.png"}, "the folder no does not exist"),
    "no format": (["one.png"], {"output": "x.gif"}, "ends in .png, .jpg"),
    "no format of a mask": (["one.png"], {"mask": "x", "format": "png"}, "ends in .png, .jpg"),
    "two formats": (["one.png"], {"output": "x.png", "format": "jpeg"}, "x.png is a name for png"),
    "two formats, by template": (
        ["one.png"],
        {"template": "{stem}.png", "format": "jpeg"},
        "asks for png, but --format for jpeg",
    ),
    "a template for a file": (["one.png"], {"output": "x.png", "template": "y"}, "--name is for"),
    "unknown field": (["one.png"], {"template": "{size}"}, r"expected only \{stem\}, \{scale\}"),
    "attribute": (["one.png"], {"template": "{stem.x}"}, r"expected only \{stem\}"),
    "format of a field": (["one.png"], {"template": "{scale:99999}"}, r"expected only \{stem\}"),
    "lone brace": (["one.png"], {"template": "{stem"}, "--name {stem: expected '}'"),
    "folder in a template": (["one.png"], {"template": "x/{stem}"}, "is no name for a file"),
    "a leftover's name": (["one.png"], {"template": ".ppsr-{stem}"}, "is no name for a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_named_is_refused(folder: Path, name: str) -> None:
    (folder / "link.png").symlink_to("one.png")
    if name == "another input":
        (folder / "in/one2.png").hardlink_to(folder / "in/a.png")
    arguments, options, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        jobs(*arguments, **options)


class TestSkipping:
    def test_what_exists_is_skipped(self, folder: Path) -> None:
        (folder / "out").mkdir()
        (folder / "out/a_x2.png").write_bytes(b"made")
        skipped = [job.skip for job in jobs("in", output="out", skip_existing=True)]
        assert skipped == ["exists", None, None]
        assert [job.skip for job in jobs("in", output="out")] == [None] * 3

    def test_not_while_an_overlay_is_missing(self, folder: Path) -> None:
        (folder / "one_x2.png").write_bytes(b"made")
        (job,) = jobs("one.png", mask="m.png", skip_existing=True)
        assert job.skip is None

    def test_a_folder_that_holds_outputs_is_taken_up_again(self, folder: Path) -> None:
        """Else the second run would enlarge what the first one made."""
        (folder / "in/a_x2.png").write_bytes(b"made")
        skipped = {str(job.source.path): job.skip for job in jobs("in", skip_existing=True)}
        assert skipped == {
            "in/a.png": "exists",
            "in/a_x2.png": "is itself made of in/a.png",
            "in/sub/a.JPEG": None,
            "in/sub/v1.2.heic": None,
        }
        with pytest.raises(UsageError, match="--skip-existing to leave what is made already"):
            jobs("in")

    def test_an_input_is_never_what_is_skipped_as_its_own_output(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="is the input"):
            jobs("one.png", output="one.png", skip_existing=True)


def test_a_folder_without_the_right_to_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # Root has every right.
    with pytest.raises(UsageError, match="cannot write to in/out: no right to write in in"):
        jobs("one.png", "raw.bin", output="in/out")


def test_a_target_that_is_read_only(folder: Path) -> None:
    (folder / "one_x2.png").write_bytes(b"mine")
    (folder / "one_x2.png").chmod(0o444)
    with pytest.raises(UsageError, match="it is read-only"):
        jobs("one.png")
