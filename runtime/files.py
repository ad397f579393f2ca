"""Files that are whole: a reader sees the old one or the new one, and none that is empty."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ppsr.models.errors import ArtefactError, PpsrError, UsageError

try:
    import fcntl
except ImportError:  # Windows: no locks, so nothing is swept there.
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\.ppsr-[0-9a-f]{16}(\..*)?")
"""The name of a file that is being written, or was when its process was killed."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    As ``replacing_all`` of one path.
    """
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give temporary paths that take the places of ``paths`` when the block ends well.

    All of them are flushed to the disk before the first is renamed, and gone after any exception.
    Each lies beside its target and has its suffix. Permissions are those of the file it replaces,
    else the umask's. A symbolic link is followed. Raises UsageError where a path cannot be a file,
    PpsrError where the system refuses.
    """
    temporaries: dict[Path, Path] = {}
    locks = ExitStack()
    try:
        for path in paths:
            check_target(path)
            target = Path(os.path.realpath(path))
            temporary, descriptor = create_beside(target)
            temporaries[temporary] = target
            locks.callback(os.close, descriptor)
            with suppress(FileNotFoundError):
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        if fcntl is None:
            locks.close()  # Windows renames no file that is open.
        yield list(temporaries)
        for temporary in temporaries:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        for temporary, target in temporaries.items():
            os.replace(temporary, target)
    except BaseException as error:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            names = ", ".join(map(str, paths))
            raise PpsrError(f"cannot write {names}: {error.strerror or error}") from error
        raise
    finally:
        locks.close()


def sweep(folder: Path) -> None:
    """Remove what killed runs left half-written in ``folder``; leave what is being written.

    A file that is being written is locked, and the system frees the locks of a process that ends,
    however it ends. What cannot be read, locked or removed is left.
    """
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError), open(entry.path, "rb+") as file:
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)


def create_beside(target: Path) -> tuple[Path, int]:
    """Create a temporary file that ``sweep`` spares while its descriptor is open.

    Has the suffix of ``target``. -> its path, its descriptor, open for writing.
    """
    while True:
        path = target.with_name(f".ppsr-{secrets.token_hex(8)}{target.suffix}")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        if fcntl is None:
            return path, descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return path, descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:  # A file system without locks has none to sweep by, either.
            return path, descriptor
        os.close(descriptor)  # Another process swept it before it was locked.


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: all of it, or nothing. Raises as ``replacing`` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def is_one_of(path: Path, others: Iterable[Path]) -> bool:
    """Tell whether ``path`` is a file that one of ``others`` names too, by link or by detour."""
    for other in others:
        with suppress(OSError):  # One of them does not exist.
            if path.samefile(other):
                return True
    return False


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
        if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
            raise UsageError(f"cannot write {path}: it is read-only")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def require_readable(path: Path) -> None:
    """Raise ArtefactError unless ``path`` is a file that can be opened and is not empty."""
    try:
        if path.is_dir():
            raise ArtefactError(f"{path} is a folder; give a model file")
        with path.open("rb") as file:
            if not file.read(1):
                raise ArtefactError(f"{path} is empty; give a model file that ppsr-export made")
    except OSError as error:
        raise ArtefactError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # A name that no file can have.
        raise ArtefactError(f"cannot read {str(path)!r}: {error}") from error
