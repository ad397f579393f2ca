from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ppsr.models.errors import PpsrError, UsageError
from ppsr.runtime import files
from ppsr.runtime.files import is_one_of, replacing, sweep, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_atomically(target, b"old")
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failure_in_the_middle_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    target = tmp_path / "a.onnx"
    if old is not None:
        target.write_bytes(old)

    def write() -> None:
        with replacing(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.suffix == ".onnx"
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == ([] if old is None else ["a.onnx"])
    assert old is None or target.read_bytes() == old


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(PpsrError, match=r"cannot write .*a\.bin: No space left on device"):
        write_atomically(tmp_path / "a.bin", b"data")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_are_the_umasks_or_those_of_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    old = os.umask(0o027)
    try:
        write_atomically(target, b"1")
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o600)
        write_atomically(target, b"2")
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    write_atomically(tmp_path / "link.bin", b"new")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


def test_long_names_fit(tmp_path: Path) -> None:
    target = tmp_path / ("a" * 251 + ".bin")
    write_atomically(target, b"data")
    assert target.read_bytes() == b"data"


def test_what_can_be_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the folder .*nowhere does not exist"):
        write_atomically(tmp_path / "nowhere" / "a.bin", b"")
    with pytest.raises(UsageError, match="it is a folder"):
        write_atomically(tmp_path, b"")


@pytest.mark.skipif(os.name == "nt", reason="named pipes")
def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="not a regular file"):
        write_atomically(tmp_path / "pipe.png", b"")


def test_a_file_is_known_by_all_its_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "soft").symlink_to(tmp_path / "a")
    for name in ("a", "hard", "soft", "../" + tmp_path.name + "/a"):
        assert is_one_of(tmp_path / name, [tmp_path / "no", tmp_path / "b", tmp_path / "a"])
    assert not is_one_of(tmp_path / "a", [tmp_path / "b", tmp_path / "no"])
    assert not is_one_of(tmp_path / "no", [tmp_path / "no"])


def test_a_file_that_is_read_only_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"mine")
    target.chmod(0o444)
    with pytest.raises(UsageError, match=r"a\.bin: it is read-only"):
        write_atomically(target, b"other")
    assert target.read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="locks")
class TestSweeping:
    def test_removes_what_a_killed_run_left_and_nothing_else(self, tmp_path: Path) -> None:
        kept = ["a.png", ".ppsr-notes", ".ppsr-0123456789abcdeg.png", "x.ppsr-0123456789abcdef"]
        for name in [*kept, ".ppsr-0123456789abcdef.png", ".ppsr-0123456789abcdef"]:
            (tmp_path / name).write_bytes(b"half")
        (tmp_path / ".ppsr-00000000000000ff.png").mkdir()
        (tmp_path / ".ppsr-00000000000000fe.png").symlink_to("a.png")
        sweep(tmp_path)
        links = [".ppsr-00000000000000fe.png", ".ppsr-00000000000000ff.png"]
        assert names(tmp_path) == sorted([*kept, *links])

    def test_what_is_being_written_by_another_process_stays(self, tmp_path: Path) -> None:
        """And is swept once that process was killed."""
        code = (
            "import sys, pathlib, time\n"
            "from ppsr.runtime.files import replacing\n"
            "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
            "    print(temporary.name, flush=True)\n"
            "    time.sleep(60)\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            sweep(tmp_path)
            assert names(tmp_path) == [name]
            process.kill()
        sweep(tmp_path)
        assert names(tmp_path) == []

    def test_what_is_swept_between_its_creation_and_its_lock_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock, swept = files.fcntl.flock, []

        def flock(descriptor: int, operation: int) -> None:
            if not swept:
                swept.extend(names(tmp_path))
                (tmp_path / swept[0]).unlink()
            lock(descriptor, operation)

        monkeypatch.setattr(files.fcntl, "flock", flock)
        write_atomically(tmp_path / "a.bin", b"data")
        assert len(swept) == 1
        assert names(tmp_path) == ["a.bin"]

    def test_no_such_folder_is_no_error(self, tmp_path: Path) -> None:
        sweep(tmp_path / "no")
