"""How outputs are named: beside their inputs or in a folder, by a template."""

from __future__ import annotations

import os
import string
from dataclasses import dataclass
from pathlib import Path

from ppsr.models.errors import UsageError
from ppsr.runtime.files import check_target
from ppsr.runtime.pictures import formats
from ppsr.runtime.pictures.formats import format_of

from .inputs import STREAM, Inputs, Source

FORMATS = {key: entry.suffixes[0] for key, entry in formats.FORMATS.items() if entry.dtypes}
"""What can be written, and the suffix of a file whose input has another."""
FIELDS = ("stem", "scale", "suffix", "format", "model")
TEMPLATE = "{stem}_x{scale}"


@dataclass(frozen=True)
class Naming:
    """Where the outputs go, as options say it. A folder where it is one, or ends with a slash."""

    output: str | None = None
    """None: beside each input."""
    template: str | None = None
    """With the ``FIELDS``; a suffix is added unless it has one. None: ``TEMPLATE``."""
    format: str | None = None
    """One of ``FORMATS``; None: that of the name, which is that of the input."""
    mask: str | None = None
    compare: str | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a template that is none."""
        try:
            parts = list(string.Formatter().parse(self.template or TEMPLATE))
        except ValueError as error:
            raise UsageError(f"--name {self.template}: {error}") from error
        for _, field, spec, conversion in parts:
            if field is not None and (field not in FIELDS or spec or conversion):
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise UsageError(f"--name {self.template}: expected only {known} in braces")

    @property
    def to_stream(self) -> bool:
        """Whether the picture goes to standard output."""
        return self.output == STREAM

    @property
    def folders(self) -> list[Path]:
        """Where outputs of several inputs go: nothing below them is an input."""
        named = (self.output, self.mask, self.compare)
        return [Path(value) for value in named if value not in (None, STREAM)]

    def require(self, inputs: Inputs) -> None:
        """Raise UsageError where the options do not fit the inputs, before a model is loaded."""
        if self.to_stream and not inputs.single:
            raise UsageError("standard output takes one picture; give a folder with --output")
        if inputs.sources[0].path is None and (
            self.output is None or (not self.to_stream and is_folder(self.output))
        ):
            raise UsageError("standard input has no name; name a file with --output, or - to pipe")
        for option in ("output", "mask", "compare"):
            value: str | None = getattr(self, option)
            if value is None or (option == "output" and self.to_stream):
                continue
            if value == STREAM:
                raise UsageError(f"--{option} takes a file, not standard output")
            if not inputs.single:
                _require_folder(option, value)
            elif not is_folder(value):
                self._require_file(option, Path(value))
        if self.template and inputs.single and self.output and not is_folder(self.output):
            raise UsageError(f"--name is for outputs in a folder, but --output names {self.output}")

    def _require_file(self, option: str, path: Path) -> None:
        if option != "output" or self.format is None:
            format_of(path)
        elif path.suffix and (of := format_or_none(path)) is not None and of != self.format:
            raise UsageError(f"{path} is a name for {of}, but --format asks for {self.format}")
        check_target(path)

    def file_name(self, source: Source, scale: int, model: str) -> str:
        """Return the name of an output in its folder. Raises UsageError where it can be none."""
        template = self.template or TEMPLATE
        own = source.below.suffix
        kind = self.format or format_or_none(source.below) or "png"
        suffix = own if format_or_none(source.below) == kind else FORMATS[kind]
        values = {"scale": scale, "suffix": suffix, "format": kind, "model": model}
        name = template.format(stem=source.below.stem, **values)
        # Judged without the stem, which may hold a dot of its own.
        asked = format_or_none(Path(template.format(stem="a", **values)))
        if asked is None:
            name += suffix
        elif self.format not in (None, asked):
            raise UsageError(f"--name {template} asks for {asked}, but --format for {self.format}")
        if set(name) & {"/", "\0", os.sep} or name.startswith(".ppsr-"):
            raise UsageError(f"--name {template} gives {name!r}, which is no name for a file")
        return name


def format_or_none(path: os.PathLike[str]) -> str | None:
    """Return the format of a name, None where it is none that can be written."""
    try:
        return format_of(Path(path))
    except UsageError:
        return None


def is_folder(value: str) -> bool:
    return value.endswith(("/", os.sep)) or os.path.isdir(value)


def _require_folder(option: str, value: str) -> None:
    path = Path(value)
    if is_folder(value):
        require_place(path)
    elif path.exists():
        raise UsageError(f"--{option} takes a folder where there may be several pictures: {value}")
    elif format_or_none(path) is not None:
        raise UsageError(
            f"--{option} takes a folder where there may be several pictures, got {value}; "
            "a folder of that name: end it with /"
        )


def require_place(folder: Path) -> None:
    """Raise UsageError where ``folder`` is none and cannot be made."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"cannot write to {folder}: {place} is no folder")
    if not os.access(place, os.W_OK):
        raise UsageError(f"cannot write to {folder}: no right to write in {place}")
