"""Writing pictures of every kind from rows, without the whole picture in memory.

Rows go to a file beside the target, from which libvips encodes. PNG, JPEG and TIFF are encoded as
they are read; WebP and AVIF need the picture in memory, whatever its size.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyvips

from ppsr.models.errors import PictureError, PpsrError, UsageError
from ppsr.runtime.files import check_target, replacing
from ppsr.runtime.pixels import Pixels

from . import exif as exif_block
from .containers import INCH, JPEG_EXIF
from .formats import (
    BITS,
    DEPTHS,
    FORMATS,
    WORDS,
    require_writable,
)
from .metadata import Metadata, iptc_for
from .savers import SAVERS
from .strips import header
from .vips import raise_if_system, reason

Depth = Literal["8", "16", "float"]


@dataclass(frozen=True)
class Encoding:
    """How a picture is to be written."""

    format: str
    """A key of ``FORMATS`` that can be written."""
    dtype: np.dtype[Any]
    """What rows must come in."""
    quality: int | None = None
    """None: the format's own. JPEG 95, all chroma kept; WebP and AVIF lossless."""
    notes: tuple[str, ...] = ()
    """One short clause for each thing that the format cannot hold."""


def choose_encoding(
    format: str, picture: Pixels, *, scale: int, depth: Depth | None, quality: int | None
) -> Encoding:
    """Decide how ``picture``, made larger by ``scale``, is written.

    Without ``depth`` it is the picture's own, or the most that the format holds. Raises UsageError
    for a depth, a quality or a size that the format has not.
    """
    entry = require_writable(format)
    height, width, channels = picture.shape
    check_size(format, (scale * height, scale * width))
    require_quality(format, quality)
    notes = []
    wanted = DEPTHS[depth] if depth is not None else picture.dtype
    own = getattr(picture, "dtype", wanted)
    if depth is not None and (wanted not in entry.dtypes or (wanted == WORDS and entry.bits < 16)):
        able = [
            e.suffixes[0]
            for e in FORMATS.values()
            if wanted in e.dtypes and (wanted != WORDS or e.bits == 16)
        ]
        raise UsageError(
            f"{entry.name} cannot hold {BITS[wanted]} a channel; leave the depth out, or write "
            f"{' or '.join(able)}"
        )
    dtype = wanted if wanted in entry.dtypes else entry.dtypes[-1]
    order = list(DEPTHS.values())
    if dtype == WORDS and entry.bits < 16:
        notes.append(f"{BITS[own]} rounded to {entry.bits}: {entry.name} holds no more")
    elif order.index(dtype) < order.index(own):
        why = "as asked" if depth is not None else f"{entry.name} holds no more"
        notes.append(f"{BITS[own]} rounded to {BITS[dtype].split()[0]}: {why}")
    if channels in (2, 4) and not entry.alpha:
        notes.append(f"alpha laid on white: {entry.name} has none")
    notes += _left_out(format, channels, getattr(picture, "metadata", Metadata()))
    return Encoding(format, dtype, quality, tuple(notes))


def require_quality(format: str, quality: int | None) -> None:
    """Raise UsageError where a format is asked for a quality that it has not."""
    entry = FORMATS[format]
    if quality is None:
        return
    if entry.quality == "always lossless":
        raise UsageError(
            f"{entry.name} is always lossless and has no quality; leave it out, or write "
            ".jpg, .webp or .avif"
        )
    if not 1 <= quality <= 100:
        raise UsageError(f"expected a quality from 1 to 100, got {quality}")


def check_size(format: str, size: tuple[int, int]) -> None:
    """Raise UsageError where the format cannot hold a picture of ``size``, H W."""
    entry = FORMATS[format]
    if max(size) > entry.side:
        raise UsageError(
            f"{size[0]} x {size[1]} pixels, but {entry.name} holds at most {entry.side} a side; "
            "write .png or .tif"
        )


def check_picture_target(path: Path, encoding: Encoding, shape: tuple[int, int, int]) -> None:
    """Raise UsageError where ``path`` cannot become a picture of that shape, H W C."""
    try:
        check_size(encoding.format, shape[:2])
    except UsageError as error:
        raise UsageError(f"cannot write {path}: {error}") from None
    check_target(path)


class PictureWriter:
    """Takes a picture row by row, and writes it when the block ends well.

    A file appears whole or not at all; a stream gets nothing before all rows are there. Raises
    UsageError as ``check_picture_target`` does, PictureError where the picture cannot be encoded,
    PpsrError where the disc fails.
    """

    def __init__(
        self,
        target: Path | BinaryIO,
        shape: tuple[int, int, int],
        encoding: Encoding,
        metadata: Metadata | None,
    ) -> None:
        """Touch nothing yet."""
        self._target = target
        self._label = str(target) if isinstance(target, Path) else "standard output"
        self._shape = shape
        self._encoding = encoding
        self._metadata = _kept(encoding.format, shape, metadata or Metadata())
        self._file: BinaryIO | None = None
        self._done = 0

    def __enter__(self) -> PictureWriter:
        """Make the file for the rows."""
        folder = Path(tempfile.gettempdir())
        if isinstance(self._target, Path):
            check_picture_target(self._target, self._encoding, self._shape)
            folder = Path(os.path.realpath(self._target)).parent
        with _reports_disc(self._label):
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".ppsr-")
            self._file.write(header(self._shape, self._encoding.dtype))
        return self

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Take the next rows, H' W C, of the dtype of the encoding."""
        height, width, channels = self._shape
        right = rows.ndim == 3 and rows.shape[1:] == (width, channels)
        if not right or rows.dtype != self._encoding.dtype or self._done + len(rows) > height:
            raise ValueError(
                f"expected {self._encoding.dtype} rows of {width} x {channels}, "
                f"{height - self._done} at most, got {rows.dtype} {rows.shape}"
            )
        if self._file is None:
            raise ValueError("the writer is not open")
        with _reports_disc(self._label):
            self._file.write(np.ascontiguousarray(rows).data)
        self._done += len(rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Encode and publish, or leave nothing."""
        assert self._file is not None
        try:
            if kind is None:
                if self._done != self._shape[0]:
                    raise ValueError(f"{self._done} of {self._shape[0]} rows were written")
                with _reports_disc(self._label):
                    self._file.flush()
                self._publish()
        finally:
            with suppress(OSError):  # Nothing of it is wanted any more.
                self._file.close()
            self._file = None

    def _publish(self) -> None:
        if isinstance(self._target, Path):
            with replacing(self._target) as temporary, temporary.open("rb+") as file:
                self._encode(file)
            return
        with _reports_disc(self._label), tempfile.TemporaryFile() as file:
            self._encode(file)
            file.seek(0)
            shutil.copyfileobj(file, self._target, 2**20)
            self._target.flush()

    def _encode(self, file: BinaryIO) -> None:
        height, width, _ = self._shape
        try:
            SAVERS[self._encoding.format](
                self._image(), file, self._metadata, self._encoding.quality
            )
        except pyvips.Error as error:
            raise_if_system(error, f"cannot write {self._label}")
            raise PictureError(
                f"cannot write {self._label}: {height} x {width} cannot be encoded "
                f"({reason(error)})"
            ) from error

    def _image(self) -> Any:
        assert self._file is not None
        os.lseek(self._file.fileno(), 0, os.SEEK_SET)
        rows = pyvips.Source.new_from_descriptor(self._file.fileno())
        image = pyvips.Image.tiffload_source(rows, access="sequential", fail_on="error")
        # libvips would say 25 pixels per inch.
        across, down = self._metadata.resolution or (INCH, INCH)
        image = image.copy(xres=across / 25.4, yres=down / 25.4)
        fields = {
            "icc-profile-data": self._metadata.icc,
            "xmp-data": self._metadata.xmp,
            "iptc-data": self._metadata.iptc,
        }
        for name, content in fields.items():
            if content is not None:
                image.set_type(pyvips.GValue.blob_type, name, content)
        return image


@contextmanager
def _reports_disc(label: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PpsrError(f"cannot write {label}: {error.strerror or error}") from error


def _left_out(format: str, channels: int, metadata: Metadata) -> list[str]:
    entry = FORMATS[format]
    names: list[str] = [part for part in metadata.parts() if part not in entry.holds]
    notes = [f"{name} left out: {entry.name} has no place for it" for name in names]
    if not metadata.fits_profile(channels, format):
        notes.append(f"ICC profile left out: it is not of the colours of this {entry.name}")
    if format == "jpeg" and metadata.exif is not None and len(metadata.exif) > JPEG_EXIF:
        notes.append("EXIF left out: JPEG holds at most 64 KiB")
    return notes


def _kept(format: str, shape: tuple[int, int, int], metadata: Metadata) -> Metadata:
    """Return what is written: what the format holds, and true of the size."""
    holds = FORMATS[format].holds
    fits = metadata.fits_profile(shape[2], format)
    exif = metadata.exif if "EXIF" in holds else None
    iptc = metadata.iptc if "IPTC" in holds else None
    return replace(
        metadata,
        icc=metadata.icc if fits else None,
        exif=None if exif is None else exif_block.updated(exif, *shape[:2]),
        iptc=None if iptc is None else iptc_for(format, iptc) or None,
        text=metadata.text if "text" in holds else (),
        colour=metadata.colour if "gamma" in holds else (),
    )
