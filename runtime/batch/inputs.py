"""Which pictures are meant: files, folders, patterns that the shell did not expand, "-"."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ppsr.models.errors import PictureError, UsageError
from ppsr.runtime.files import TEMPORARY
from ppsr.runtime.pictures.formats import FORMATS

STREAM = "-"
"""Standard input, standard output."""
SUFFIXES = tuple(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
"""What is looked for in folders."""


@dataclass(frozen=True)
class Source:
    """One picture to make larger."""

    path: Path | None
    """None: standard input."""
    below: PurePath
    """Where it lies below the folder that was given; of a file that was given, its name alone."""
    data: bytes | None = field(default=None, repr=False)
    """Of standard input: all of it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard input" if self.path is None else str(self.path)


@dataclass(frozen=True)
class Inputs:
    """What the arguments mean."""

    sources: tuple[Source, ...]
    single: bool
    """One file was named, or standard input: the output is a file, too."""


def find_inputs(
    arguments: Sequence[str],
    *,
    recursive: bool = False,
    leave_out: Iterable[Path] = (),
    keep_missing: bool = False,
) -> Inputs:
    """Find the pictures that arguments name, in their order; those of a folder by name.

    Of a folder, hidden files and other suffixes than ``SUFFIXES`` are left out, and so are the
    folders ``leave_out`` (where outputs go) below it; files that are named are taken as they are.
    A picture that is named twice is taken once. Raises UsageError where an argument is nothing, or
    holds no picture; with ``keep_missing`` a file that is missing is taken, and fails in its turn.
    """
    if STREAM in arguments:
        if len(arguments) > 1:
            raise UsageError('"-", standard input, is one picture; give no other beside it')
        if sys.stdin.isatty():
            raise UsageError(
                '"-" is standard input, and that is a terminal; pipe a picture into it'
            )
        return Inputs((Source(None, PurePath("stdin"), sys.stdin.buffer.read()),), single=True)
    avoided = {os.path.realpath(folder) for folder in leave_out}
    sources: dict[Path, Source] = {}
    names = [name for argument in arguments for name in _expand(argument)]
    for path in map(Path, names):
        if TEMPORARY.fullmatch(path.name):
            raise PictureError(f"{path} is half an output, of a run that goes on or was killed")
        if _is_folder(path):
            found = list(_walk(path, recursive, avoided))
            if not found:
                raise UsageError(_nothing_in(path, recursive))
        else:
            if not keep_missing:
                _require_file(path)
            found = [Source(path, PurePath(path.name))]
        for source in found:
            assert source.path is not None
            place = Path(os.path.realpath(source.path.parent), source.path.name)
            sources.setdefault(place, source)
    single = names == list(arguments) and len(names) == 1 and not _is_folder(Path(names[0]))
    return Inputs(tuple(sources.values()), single)


def _expand(argument: str) -> Iterable[str]:
    """Expand a pattern as a shell would, where no file has that very name."""
    if not glob.has_magic(argument) or os.path.lexists(argument):
        return [argument]
    found = sorted(glob.glob(argument, recursive=True))
    if not found:
        raise UsageError(f"no file matches {argument}")
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _require_file(path: Path) -> None:
    try:
        if not path.exists():
            raise PictureError(f"{path} does not exist")
        if not path.is_file():
            raise PictureError(f"{path} is not a regular file; give a picture, or pipe it into -")
    except OSError as error:
        raise _unreadable(path, error) from error


def _walk(folder: Path, recursive: bool, avoided: set[str]) -> Iterator[Source]:
    """Yield the pictures of a folder, those of a folder before those of the folders in it."""

    def fail(error: OSError) -> None:
        raise UsageError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(
            name
            for name in folders
            if recursive
            and not name.startswith(".")
            and os.path.realpath(os.path.join(parent, name)) not in avoided
        )
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file():
                yield Source(path, path.relative_to(folder))


def _nothing_in(folder: Path, recursive: bool) -> str:
    message = f"{folder} holds no picture; expected files that end in {', '.join(SUFFIXES)}"
    if not recursive and any(entry.is_dir() for entry in folder.iterdir()):
        message += "; --recursive looks into the folders in it, too"
    return message


def _unreadable(path: Path, error: OSError | ValueError) -> PictureError:
    reason = error.strerror if isinstance(error, OSError) else error
    return PictureError(f"cannot read {str(path)!r}: {reason}")
