"""Reading and writing pictures: 8-bit RGB as PNG, JPEG, WebP and TIFF, with the colour profile.

What would lose something on the way (alpha, 16 bits, a palette, further pages) is refused, not
converted; of the metadata only the profile is kept, the orientation applied, and EXIF, GPS and XMP
are dropped. The format is told from the content and its loader called by name, so no other decoder
is ever reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyvips

from ppsr.models.errors import PictureError, UsageError

from .files import check_target, write_atomically

MAX_PIXELS = 2**28
"""Larger pictures are refused before they are decoded."""

PROFILE = "icc-profile-data"

ACCEPTED = "accepted are 8-bit RGB pictures without alpha or palette, as PNG, JPEG, WebP or TIFF"

SIGNATURES: Final = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML",
}
# libjpeg only warns where the data end in the middle of the picture; the warnings of the others are
# about colour profiles and tags.
LOADERS: Final = {
    "PNG": ("pngload_buffer", "error"),
    "JPEG": ("jpegload_buffer", "warning"),
    "WebP": ("webpload_buffer", "error"),
    "TIFF": ("tiffload_buffer", "error"),
}

_JPEG = ("jpegsave_buffer", {"Q": 95, "subsample_mode": "off", "optimize_coding": True})
_TIFF = ("tiffsave_buffer", {"compression": "deflate", "predictor": "horizontal"})
SAVERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    ".png": ("pngsave_buffer", {"compression": 6, "filter": "all"}),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": ("webpsave_buffer", {"lossless": True}),
    ".tif": _TIFF,
    ".tiff": _TIFF,
}

LIMITS: Final = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
"""Pixels a side, by suffix. JPEG could hold 65535; libjpeg draws its line a little below."""

DEPTHS: Final = {
    "uchar": "8-bit",
    "ushort": "16-bit",
    "uint": "32-bit",
    "float": "32-bit float",
    "double": "64-bit float",
}
COLOURS: Final = {
    "b-w": "grey",
    "grey16": "grey",
    "srgb": "RGB",
    "rgb": "RGB",
    "rgb16": "RGB",
    "scrgb": "RGB",
    "cmyk": "CMYK",
}


@dataclass(frozen=True)
class Picture:
    """A picture in memory, upright."""

    rgb: npt.NDArray[np.uint8]
    """H W 3."""
    profile: bytes | None = None
    """ICC colour profile, None where the file has none."""


def read_picture(path: Path, *, expand_grey: bool = False) -> Picture:
    """Read a picture of any size from 1 x 1. The EXIF orientation is applied.

    ``expand_grey`` accepts 8-bit grey too, as three equal channels. Raises PictureError for
    everything that is not one 8-bit RGB picture without alpha or palette.
    """
    data = _read(path)
    kind = _format(data)
    if kind not in LOADERS:
        raise PictureError(f"{path} is {kind or 'no picture'}; {ACCEPTED}")
    try:
        loader, fail_on = LOADERS[kind]
        image = getattr(pyvips.Image, loader)(data, fail_on=fail_on)
        is_grey = (image.bands, image.format, image.interpretation) == (1, "uchar", "b-w")
        if expand_grey and is_grey:
            image = image.bandjoin([image, image]).copy(interpretation="srgb")
        _require_plain(image, path, kind, data)
        upright = image.autorot()
        profile = upright.get(PROFILE) if upright.get_typeof(PROFILE) else None
        return Picture(np.ascontiguousarray(upright.numpy()), profile)
    except pyvips.Error as error:
        raise PictureError(
            f"{path} is a {kind} that is damaged, truncated or of a kind not supported "
            f"({_reason(error)})"
        ) from error


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in the format of its suffix, atomically.

    PNG, TIFF and WebP are bit-exact; JPEG has quality 95 and full chroma. Raises UsageError as
    ``check_picture_target`` does, PictureError where the picture cannot be encoded.
    """
    height, width, bands = picture.rgb.shape
    check_picture_target(path, (height, width))
    operation, options = SAVERS[path.suffix.lower()]
    pixels = np.ascontiguousarray(picture.rgb)
    image = pyvips.Image.new_from_memory(pixels.data, width, height, bands, "uchar")
    # libvips would say 25 dots per inch.
    image = image.copy(interpretation="srgb", xres=72 / 25.4, yres=72 / 25.4)
    if picture.profile is not None:
        image.set_type(pyvips.GValue.blob_type, PROFILE, picture.profile)
    try:
        data = getattr(image, operation)(keep="icc", **options)
    except pyvips.Error as error:
        raise PictureError(
            f"cannot write {path}: {height} x {width} cannot be encoded ({_reason(error)})"
        ) from error
    write_atomically(path, data)


def check_picture_target(path: Path, size: tuple[int, int]) -> None:
    """Raise UsageError where ``path`` cannot be written as a picture of ``size``, H W.

    Its suffix is none of ``SAVERS``, or stands for a format that is too small.
    """
    if path.suffix.lower() not in SAVERS:
        raise UsageError(
            f"cannot write {path}: expected a name that ends in {', '.join(SAVERS)}, "
            f"got {path.suffix or 'no suffix'}"
        )
    limit = LIMITS.get(path.suffix.lower())
    if limit is not None and max(size) > limit:
        raise UsageError(
            f"cannot write {path}: {size[0]} x {size[1]} pixels, but {path.suffix} holds at most "
            f"{limit} a side; write .png or .tif"
        )
    check_target(path)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise PictureError(f"{path} is a folder; give one picture")
        if not path.exists():
            raise PictureError(f"{path} does not exist")
        if not path.is_file():
            raise PictureError(f"{path} is not a regular file")
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise PictureError(f"{path} is empty; {ACCEPTED}")
    return data


def _format(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return "HEIF, AVIF or a film"
    return next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)


def _require_plain(image: Any, path: Path, kind: str, data: bytes) -> None:
    """Raise PictureError unless the header promises one 8-bit RGB picture."""
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if image.get_typeof("n-subifds"):
        pages += image.get("n-subifds")
    if kind == "PNG" and _is_animated_png(data):
        raise PictureError(f"{path} is an animated PNG; {ACCEPTED}, one picture in a file")
    if pages > 1:
        raise PictureError(f"{path} is a {kind} of {pages} pictures; {ACCEPTED}, one in a file")
    if image.get_typeof("palette") or (kind == "TIFF" and _is_palette_tiff(data)):
        raise PictureError(f"{path} is a {kind} with a palette; {ACCEPTED}")
    colour = COLOURS.get(image.interpretation, image.interpretation)
    if (image.bands, image.format, colour) != (3, "uchar", "RGB"):
        found = f"{DEPTHS.get(image.format, image.format)} {colour}"
        found += " with alpha" if image.hasalpha() else ""
        raise PictureError(f"{path} is a {kind} of {found}; {ACCEPTED}")
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(
            f"{path} has {image.height} x {image.width} pixels; at most {MAX_PIXELS:,} are accepted"
        )


def _is_animated_png(data: bytes) -> bool:
    """Look for the chunk acTL, which stands before the first IDAT."""
    at = 8
    while (kind := data[at + 4 : at + 8]) not in (b"", b"IDAT"):
        if kind == b"acTL":
            return True
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _is_palette_tiff(data: bytes) -> bool:
    """Look for photometric interpretation 3 in the first directory: libvips does not tell."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    if number(2, 2) == 42:
        start, size, length = number(4, 4) + 2, 2, 12
    else:  # BigTIFF
        start, size, length = number(8, 8) + 8, 8, 20
    count = min(number(start - size, size), (len(data) - start) // length)
    entries = (start + index * length for index in range(count))
    value = 8 if length == 12 else 12
    return any(number(at, 2) == 262 and number(at + value, 2) == 3 for at in entries)


def _reason(error: pyvips.Error) -> str:
    """Return the first of the lines that libvips collected."""
    lines = str(getattr(error, "detail", error)).split("\n")
    return next((line.strip() for line in lines if line.strip()), "unknown reason")
