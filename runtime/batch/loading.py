"""Pictures on their way to the model: decoded, and how their output will be written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ppsr.models.errors import NO_MEMORY, PpsrError, UsageError
from ppsr.runtime.pictures.decode import MAX_PIXELS, open_picture
from ppsr.runtime.pictures.encode import Depth, Encoding, check_size, choose_encoding
from ppsr.runtime.pictures.formats import format_of
from ppsr.runtime.pictures.metadata import Metadata
from ppsr.runtime.pixels import Pixels
from ppsr.runtime.tiles import Tiling

from .jobs import Job
from .names import FORMATS


@dataclass(frozen=True)
class Options:
    """What holds for every picture."""

    tiling: Tiling = field(default_factory=Tiling)
    depth: Depth | None = None
    """None: that of the input."""
    quality: int | None = None
    max_pixels: int = MAX_PIXELS
    keep_going: bool = False
    """After a picture that failed."""


@dataclass(frozen=True)
class Loaded:
    """A picture that is ready for the model. Any thread may read its rows."""

    pixels: Pixels
    encoding: Encoding
    metadata: Metadata
    notes: tuple[str, ...]
    close: Callable[[], None]


def load(job: Job, options: Options, scale: int) -> Loaded:
    """Decode the picture of a job and choose how its output is written.

    Raises PictureError for what is none, UsageError where the output cannot hold it.
    """
    source = job.source
    content = source.path or source.data or b""
    try:
        with ExitStack() as stack:
            picture = open_picture(content, max_pixels=options.max_pixels, name=source.name)
            stack.callback(picture.close)
            kind = job.format or (picture.kind if picture.kind in FORMATS else "png")
            encoding = choose_encoding(
                kind, picture, scale=scale, depth=options.depth, quality=options.quality
            )
            if job.compare is not None:
                _require_comparison(job.compare, picture, scale)
            notes = (*picture.notes, *encoding.notes)
            return Loaded(picture, encoding, picture.metadata, notes, stack.pop_all().close)
    except MemoryError as error:
        raise PpsrError(NO_MEMORY) from error


def _require_comparison(path: Path, picture: Pixels, scale: int) -> None:
    """Raise UsageError where two pictures beside each other are too wide for their format."""
    height, width, _ = picture.shape
    try:
        check_size(format_of(path), (scale * height, 2 * scale * width))
    except UsageError as error:
        raise UsageError(f"cannot write {path}: {error}") from error
