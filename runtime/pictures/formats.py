"""What the picture formats are called, how they are told apart, and what each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyvips

from ppsr.models.errors import UsageError

BYTES = np.dtype(np.uint8)
WORDS = np.dtype(np.uint16)
FLOATS = np.dtype(np.float32)

DEPTHS: Final[Mapping[str, np.dtype[Any]]] = {"8": BYTES, "16": WORDS, "float": FLOATS}
BITS: Final = {BYTES: "8 bits", WORDS: "16 bits", FLOATS: "32-bit float"}

Part = Literal["ICC profile", "EXIF", "XMP", "IPTC", "text", "gamma", "resolution"]


@dataclass(frozen=True)
class Format:
    """One format."""

    name: str
    """As people write it."""
    suffixes: tuple[str, ...]
    loader: str
    """Of libvips, without ``_source``."""
    fail_on: str = "error"
    """From which severity on what libvips finds is damage."""
    dtypes: tuple[np.dtype[Any], ...] = (BYTES,)
    """What rows may be written as, from the least to the most; none where it is only read."""
    bits: int = 16
    """The most that an integer sample holds."""
    alpha: bool = True
    grey: bool = True
    """Whether one channel stays one: else three equal ones are read again."""
    quality: int | Literal["lossless", "always lossless"] = "always lossless"
    """What it is written with where nobody asks."""
    side: int = 10_000_000
    """The most pixels a side that can be written."""
    holds: frozenset[Part] = frozenset()


def _holds(*parts: Part) -> frozenset[Part]:
    return frozenset({"ICC profile", "XMP", "EXIF", "resolution", *parts})


# libjpeg only warns where the data end in the middle of the picture; the warnings of the others are
# about colour profiles and tags. JPEG could hold 65535 a side; libjpeg draws its line below.
FORMATS: Final[Mapping[str, Format]] = {
    "png": Format(
        "PNG", (".png",), "pngload", dtypes=(BYTES, WORDS), holds=_holds("text", "gamma")
    ),
    "jpeg": Format(
        "JPEG",
        (".jpg", ".jpeg"),
        "jpegload",
        fail_on="warning",
        bits=8,
        alpha=False,
        quality=95,
        side=65500,
        holds=_holds("IPTC"),
    ),
    "webp": Format(
        "WebP",
        (".webp",),
        "webpload",
        bits=8,
        grey=False,
        quality="lossless",
        side=16383,
        holds=_holds(),
    ),
    "tiff": Format(
        "TIFF",
        (".tif", ".tiff"),
        "tiffload",
        dtypes=(BYTES, WORDS, FLOATS),
        holds=_holds("IPTC"),
    ),
    "avif": Format(
        "AVIF",
        (".avif",),
        "heifload",
        dtypes=(BYTES, WORDS),
        bits=12,
        grey=False,
        quality="lossless",
        side=16384,
        holds=_holds(),
    ),
    "heic": Format("HEIC", (".heic", ".heif"), "heifload", dtypes=()),
}

SIGNATURES: Final = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
OTHERS: Final = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"8BPS": "Photoshop's PSD",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
}

ACCEPTED = "accepted are PNG, JPEG, WebP, TIFF, AVIF and HEIC"


def sniff(head: bytes) -> tuple[str | None, str]:
    """Tell the format from the first bytes: (its key or None, what to call it)."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp", "WebP"
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = {head[at : at + 4] for at in (8, *range(16, min(size, len(head)), 4))}
        if brands & {b"avif", b"avis"}:
            return "avif", "AVIF"
        if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
            return "heic", "HEIC"
        return None, "a film or another file of the MPEG family"
    for start, key in SIGNATURES.items():
        if head.startswith(start):
            return key, FORMATS[key].name
    return None, next((name for s, name in OTHERS.items() if head.startswith(s)), "no picture")


def format_of(path: Path) -> str:
    """Return the format that a name to write asks for. Raises UsageError for other suffixes."""
    suffix = path.suffix.lower()
    for key, entry in FORMATS.items():
        if suffix in entry.suffixes and entry.dtypes:
            return key
    written = ", ".join(s for entry in FORMATS.values() if entry.dtypes for s in entry.suffixes)
    hint = "; HEIC can be read, not written" if suffix in FORMATS["heic"].suffixes else ""
    raise UsageError(
        f"cannot write {path}: expected a name that ends in {written}, "
        f"got {path.suffix or 'no suffix'}{hint}"
    )


@lru_cache
def can_write_avif() -> bool:
    """Try: not every libvips has an encoder for AV1."""
    try:
        image = pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb")
        return bool(image.heifsave_buffer(compression="av1", effort=0))
    except pyvips.Error:
        return False


def require_writable(key: str) -> Format:
    """Return a format that can be written here; raises UsageError for the others."""
    entry = FORMATS.get(key)
    if entry is None or not entry.dtypes:
        names = ", ".join(key for key, entry in FORMATS.items() if entry.dtypes)
        raise UsageError(f"cannot write the format {key!r}; expected one of {names}")
    if key == "avif" and not can_write_avif():
        raise UsageError("the libvips here has no AV1 encoder; write .png, .webp or .tif")
    return entry
