"""What kinds of pixels a file may hold, and how the other kinds become one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ppsr.models.errors import PictureError

from .formats import ACCEPTED, BYTES, FLOATS, FORMATS, WORDS
from .metadata import png_chunks
from .reader import Reader
from .tiff import Directory

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {"uchar": BYTES, "ushort": WORDS, "float": FLOATS}
DEPTHS: Final = {
    "uchar": "8-bit",
    "char": "8-bit signed",
    "ushort": "16-bit",
    "short": "16-bit signed",
    "uint": "32-bit",
    "int": "32-bit signed",
    "float": "32-bit float",
}
COLOURS: Final = {
    "b-w": "grey",
    "grey16": "grey",
    "srgb": "RGB",
    "rgb": "RGB",
    "rgb16": "RGB",
    "scrgb": "RGB",
    "cmyk": "CMYK",
    "lab": "Lab",
    "labs": "Lab",
    "labq": "Lab",
}


def has(image: Any, field: str) -> bool:
    """Tell whether libvips found it."""
    return bool(image.get_typeof(field))


def describe(image: Any, tiff: Directory | None) -> str:
    """Return what the header promises: "8-bit RGB with alpha"."""
    depth = DEPTHS.get(image.format, image.format)
    bits = image.get("bits-per-sample") if has(image, "bits-per-sample") else 0
    if image.format == "ushort" and bits in (10, 12):
        depth = f"{bits}-bit"
    alpha = " with alpha" if image.hasalpha() else ""
    if has(image, "palette") or (tiff and tiff.numbers(262) == (3,)):
        return f"{depth} RGB{alpha} by a palette"
    return f"{depth} {COLOURS.get(image.interpretation, image.interpretation)}{alpha}"


def require_one(image: Any, label: str, kind: str, read: Reader) -> None:
    """Raise PictureError for animations and files of several pictures."""
    pages = image.get("n-pages") if has(image, "n-pages") else 1
    if has(image, "n-subifds"):
        pages += image.get("n-subifds")
    if kind == "png" and _is_animated(read):
        raise PictureError(f"{label} is an animated PNG; {ACCEPTED}, one picture in a file")
    if pages > 1:
        raise PictureError(
            f"{label} is {an(FORMATS[kind].name)} of {pages} pictures; {ACCEPTED}, one in a file"
        )


def require_known(image: Any, found: str) -> None:
    """Raise PictureError unless the header promises grey, RGB or CMYK of a depth that is kept."""
    colour = COLOURS.get(image.interpretation)
    bands = {"grey": (1, 2), "RGB": (3, 4), "CMYK": (4, 5)}.get(colour or "", ())
    integers = image.format in ("uchar", "ushort")
    fits = integers or (image.format == "float" and colour != "CMYK")
    if image.bands not in bands or not fits:
        more = f" in {image.bands} channels" if bands and image.bands not in bands else ""
        raise PictureError(
            f"{found}{more}; convert it to grey, RGB or CMYK of 8 or 16 bits or 32-bit float"
        )


def _is_animated(read: Reader) -> bool:
    """Look for the chunk acTL, which stands before the first IDAT."""
    for kind, _, _ in png_chunks(read):
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
    return False


def convert(image: Any, kind: str, tiff: Directory | None) -> tuple[Any, list[str]]:
    """Return the image as one of ``DTYPES`` in grey or RGB, and what that changed."""
    notes = []
    if image.interpretation == "cmyk":
        image = image.icc_transform(
            "srgb",
            embedded=True,
            input_profile="cmyk",
            intent="relative",
            black_point_compensation=True,
            depth=16 if image.format == "ushort" else 8,
        )
        notes.append("CMYK converted to sRGB")
    bits = image.get("bits-per-sample") if has(image, "bits-per-sample") else 16
    if kind in ("avif", "heic") and image.format == "ushort" and bits < 16:
        # libvips shifts 10 or 12 bits up and leaves zeros: white would be 65472.
        image = image | (image >> bits)
    if tiff and tiff.numbers(338)[:1] == (1,) and image.hasalpha():
        # libvips has done it.
        notes.append("premultiplied alpha divided out")
    return image, notes


def an(name: str) -> str:
    """Put the article before a name: an AVIF, a PNG."""
    return f"{'an' if name[:1] in 'AEIO' else 'a'} {name}"
