"""Writing files so that a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppsr.models.errors import PpsrError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    The temporary file has the suffix of ``path``, is flushed to the disk before it is renamed, and
    is gone after any exception. Permissions are those of the file it replaces, else the umask's.
    A symbolic link is followed. Raises UsageError where ``path`` cannot be a file, PpsrError where
    the system refuses.
    """
    target = Path(os.path.realpath(path))
    check_target(path)
    temporary = target.with_name(f".ppsr-{secrets.token_hex(8)}{target.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise PpsrError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: all of it, or nothing. Raises as ``replacing`` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_target(path: Path) -> None:
    """Raise UsageError where ``path`` can be no file: no such folder, or a folder or device."""
    try:
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"cannot write {path}: no right to write in {path.parent}")
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise UsageError(f"cannot write {path}: it is {kind}")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
