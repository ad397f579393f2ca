"""Reading pictures of every kind, by rows.

What cannot be kept is converted with a note (CMYK to sRGB) or refused (several pictures in a file,
Lab, whole numbers of 32 bits). The format is told from the content and its loader called by name,
so no other decoder is ever reached.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyvips

from ppsr.models.errors import PictureError
from ppsr.runtime.backend import Closing

from .formats import ACCEPTED, FLOATS, FORMATS, sniff
from .kinds import DTYPES, an, convert, describe, has, require_known, require_one
from .metadata import Metadata, read_metadata, with_cicp
from .reader import Reader
from .tiff import Directory, read_tiff
from .vips import raise_if_system, reason

MAX_PIXELS = 2**28
"""Larger pictures are refused before they are decoded."""

DISC_THRESHOLD = 32 * 2**20
"""Decoded pictures of more bytes lie in a file without a name, below the folder TMPDIR."""


class Picture(Closing):
    """A decoded picture, upright; satisfies ``Pixels``. To be closed."""

    def __init__(
        self,
        image: Any,
        orientation: int,
        kind: str,
        notes: tuple[str, ...],
        metadata: Metadata,
        description: str,
    ) -> None:
        """Take an image that is decoded already, as it is stored."""
        height, width = image.height, image.width
        if orientation > 4:
            height, width = width, height
        self.shape: tuple[int, int, int] = (height, width, image.bands)
        self.dtype: np.dtype[Any] = DTYPES[image.format]
        self.kind = kind
        self.notes = notes
        self.metadata = metadata
        self.description = description
        """Of what was in the file: "8-bit RGB with alpha"."""
        self._image = image
        self._orientation = orientation

    def rows(self, top: int, bottom: int) -> npt.NDArray[Any]:
        """Return the rows from ``top`` to ``bottom``, H' W C. Raises PpsrError if a disc fails."""
        height, width, _ = self.shape
        if not 0 <= top < bottom <= height:
            raise ValueError(f"rows {top} to {bottom} of {height}")
        turned = self._orientation
        from_end = (height - bottom, height - top)
        if turned < 5:
            start, end = from_end if turned in (3, 4) else (top, bottom)
            found = self._fetch(0, start, width, end - start)
        else:
            start, end = from_end if turned in (7, 8) else (top, bottom)
            # In pieces, so that libvips maps no more than one of a file on the disc.
            pieces = [
                self._fetch(start, at, end - start, min(1024, width - at))
                for at in range(0, width, 1024)
            ]
            found = np.concatenate(pieces).transpose(1, 0, 2)
        if turned in (3, 4, 7, 8):
            found = found[::-1]
        if turned in (2, 3, 6, 7):
            found = found[:, ::-1]
        return np.ascontiguousarray(found)

    def _fetch(self, left: int, top: int, width: int, height: int) -> npt.NDArray[Any]:
        if self._image is None:
            raise ValueError("the picture is closed")
        try:
            data = pyvips.Region.new(self._image).fetch(left, top, width, height)
        except pyvips.Error as error:
            raise_if_system(error, "cannot read a decoded picture")
            raise PictureError(f"cannot read a decoded picture ({reason(error)})") from error
        return np.frombuffer(data, self.dtype).reshape(height, width, self.shape[2])

    def close(self) -> None:
        """Give the memory or the temporary file back."""
        self._image = None


def open_picture(
    source: Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Picture:
    """Decode a picture of any size from 1 x 1; the EXIF orientation is applied.

    ``source`` is a file, or what is in one, called ``name`` in errors. All of it is decoded before
    this returns: large ones to the disc (``DISC_THRESHOLD``). Raises PictureError for what is no
    picture, is damaged, or cannot be upscaled; PpsrError where the disc fails.
    """
    label = name or (str(source) if isinstance(source, Path) else "the input")
    if isinstance(source, bytes):
        return _open(
            label,
            lambda at, length: source[at : at + length],
            lambda: pyvips.Source.new_from_memory(source),
            max_pixels,
        )
    with _file(source, label) as file:

        def read(at: int, length: int) -> bytes:
            file.seek(at)
            return file.read(length)

        def from_start() -> Any:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            return pyvips.Source.new_from_descriptor(file.fileno())

        try:
            return _open(label, read, from_start, max_pixels)
        except OSError as error:
            raise PictureError(f"cannot read {label}: {error.strerror}") from error


def read_rgb(path: Path, *, expand_grey: bool = False) -> npt.NDArray[np.uint8]:
    """Read an 8-bit RGB picture as it stands. -> uint8 H W 3.

    ``expand_grey`` accepts 8-bit grey too, as three equal channels. Raises PictureError for what
    has another depth, alpha or a palette, and as ``open_picture`` does.
    """
    with open_picture(path) as picture:
        plain = picture.description == "8-bit RGB"
        grey = expand_grey and picture.description == "8-bit grey"
        if not plain and not grey:
            raise PictureError(
                f"{path} is {an(FORMATS[picture.kind].name)} of {picture.description}; "
                "accepted are 8-bit RGB pictures without alpha or palette"
            )
        rows = picture.rows(0, picture.shape[0])
        return np.repeat(rows, 3, 2) if grey else rows


def _file(path: Path, label: str) -> BinaryIO:
    try:
        if path.is_dir():
            raise PictureError(f"{label} is a folder; give one picture")
        if not path.exists():
            raise PictureError(f"{label} does not exist")
        if not path.is_file():
            raise PictureError(f"{label} is not a regular file")
        return path.open("rb")
    except OSError as error:
        raise PictureError(f"cannot read {label}: {error.strerror}") from error
    except ValueError as error:  # A name that no file can have.
        raise PictureError(f"cannot read {label!r}: {error}") from error


def _open(label: str, read: Reader, source: Callable[[], Any], max_pixels: int) -> Picture:
    head = read(0, 256)
    if not head:
        raise PictureError(f"{label} is empty; {ACCEPTED}")
    kind, called = sniff(head)
    if kind is None:
        raise PictureError(f"{label} is {called}; {ACCEPTED}")
    tiff = _tiff(read) if kind == "tiff" else None
    if tiff and tiff.numbers(258)[:1] == (64,):
        raise PictureError(
            f"{label} is a TIFF of 64 bits a channel; convert it to 32-bit float or to 16 bits"
        )
    try:
        loader = getattr(pyvips.Image, FORMATS[kind].loader + "_source")
        image = loader(source(), access="sequential", fail_on=FORMATS[kind].fail_on)
        if kind in ("avif", "heic") and has(image, "heif-compression"):
            kind = "avif" if image.get("heif-compression") == "av1" else "heic"
        called = FORMATS[kind].name
        description = describe(image, tiff)
        require_one(image, label, kind, read)
        require_known(image, f"{label} is {an(called)} of {description}")
        if image.width * image.height > max_pixels:
            raise PictureError(
                f"{label} has {image.height} x {image.width} pixels; at most {max_pixels:,} are "
                "accepted: raise --max-pixels if it is right"
            )
        orientation = _orientation(image)
        metadata = read_metadata(image, kind, read, orientation, tiff)
        converted, notes = convert(image, kind, tiff)
        if metadata.exif is None and has(image, "exif-data"):
            notes.append("damaged EXIF left out")
        if metadata.icc is None and has(image, "icc-profile-data"):
            notes.append("damaged ICC profile left out")
        if metadata.xmp is not None and b"hdrgm:" in metadata.xmp:
            notes.append("HDR gain map left out")
        if kind in ("avif", "heic") and metadata.icc is None:
            metadata, unknown = with_cicp(metadata, read)
            notes += unknown
        if converted.interpretation != image.interpretation and image.interpretation == "cmyk":
            profile = bytes(converted.get("icc-profile-data"))
            metadata = replace(metadata, icc=profile)
        decoded = _decode(converted)
        picture = Picture(decoded, orientation, kind, tuple(notes), metadata, description)
    except pyvips.Error as error:
        raise_if_system(error, f"cannot decode {label}")
        hint = "; not every libvips decodes HEVC: convert it to AVIF" if kind == "heic" else ""
        raise PictureError(
            f"{label} is {an(called)} that is damaged, truncated or of a kind not supported "
            f"({reason(error)}){hint}"
        ) from error
    if picture.dtype == FLOATS and not _is_finite(decoded):
        raise PictureError(f"{label} holds values that are no numbers (NaN or infinity)")
    return picture


def _tiff(read: Reader) -> Directory:
    try:
        return read_tiff(read)
    except ValueError:  # libvips tells whether the picture can be read all the same.
        return Directory()


def _orientation(image: Any) -> int:
    found = image.get("orientation") if has(image, "orientation") else 1
    return found if 1 <= found <= 8 else 1


def _decode(image: Any) -> Any:
    """Return the image in memory, or in a temporary file."""
    size = image.width * image.height * image.bands * DTYPES[image.format].itemsize
    if size <= DISC_THRESHOLD:
        return image.copy_memory()
    kept = pyvips.Image.new_temp_file("%s.v")
    image.write(kept)
    return kept


def _is_finite(image: Any) -> bool:
    step = max(1, 2**22 // (image.width * image.bands))
    region = pyvips.Region.new(image)
    for top in range(0, image.height, step):
        data = region.fetch(0, top, image.width, min(step, image.height - top))
        if not np.isfinite(np.frombuffer(data, np.float32)).all():
            return False
    return True
