"""What a file says of its picture besides the pixels, and what of it another format can hold."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyvips

from . import exif as exif_block
from .formats import FORMATS, Part
from .reader import Reader
from .tiff import IPTC, Directory, exif_of, read_tiff

_NONE = (0, 0, None)
_MAX_TEXT = 2**24
_SRGB = {
    b"cICP\1\r\0\1",
    b"gAMA" + struct.pack(">I", 45455),
    b"cHRM" + struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
_RESOURCES = b"Photoshop 3.0\0"


@dataclass(frozen=True)
class Metadata:
    """All that a photographer expects to find again. What a file lacks is None."""

    icc: bytes | None = None
    exif: bytes | None = None
    """The block without prefix, of the upright picture, as the camera wrote it but for that."""
    xmp: bytes | None = None
    iptc: bytes | None = None
    """As it stood: with Photoshop's resources around it in a JPEG, bare in a TIFF."""
    text: tuple[bytes, ...] = ()
    """PNG's text chunks: kind and content, without length and checksum."""
    colour: tuple[bytes, ...] = ()
    """PNG's chunks that say what the colours are where there is no profile; none for sRGB."""
    resolution: tuple[float, float] | None = None
    """Pixels per inch, across and down."""

    def parts(self) -> list[Part]:
        """Return the names of what is there."""
        there: dict[Part, Any] = {
            "ICC profile": self.icc,
            "EXIF": self.exif,
            "XMP": self.xmp,
            "IPTC": self.iptc,
            "text": self.text,
            "gamma": self.colour,
            "resolution": self.resolution,
        }
        return [name for name, content in there.items() if content]

    def fits_profile(self, channels: int, format: str) -> bool:
        """Tell whether the profile is one of the colours that the format will hold."""
        if self.icc is None:
            return True
        space = self.icc[16:20]
        if channels > 2 or not FORMATS[format].grey:
            return space == b"RGB "
        return space == b"GRAY"


def read_metadata(
    image: Any, kind: str, read: Reader, orientation: int, tiff: Directory | None
) -> Metadata:
    """Collect what libvips found, PNG's text as it stands in the file, and EXIF from a TIFF.

    EXIF and a profile that are damaged are left out.
    """
    exif = _block(image, "exif-data") if tiff is None else exif_of(tiff)
    resolution = None
    if exif is not None:
        block = exif = exif.removeprefix(exif_block.PREFIX)
        try:
            resolution = exif_block.Block(block).resolution()
            exif_block.updated(block, 1, 1)
            read_tiff(lambda at, length: block[at : at + length])
        except ValueError:
            exif = None
    if orientation > 4 and resolution is not None:
        resolution = resolution[::-1]
    across, down = image.xres * 25.4, image.yres * 25.4
    # Without a resolution libvips says 1 pixel per millimetre, or 72 per inch.
    unknown = image.xres == image.yres and (image.xres == 1 or abs(across - 72) < 0.05)
    if across > 0 and down > 0 and not unknown:
        resolution = (across, down) if orientation < 5 else (down, across)
    if resolution is not None and not all(0.01 < each < 1e6 for each in resolution):
        resolution = None
    icc = _block(image, "icc-profile-data")
    if icc is not None and not _is_usable(icc):
        icc = None
    xmp = _block(image, "xmp-data")
    if xmp is not None:  # Some programs look there, too.
        xmp = re.sub(rb'(tiff:Orientation(?:="|>))[2-8](["<])', rb"\g<1>1\g<2>", xmp)
    return Metadata(
        icc=icc,
        exif=exif,
        xmp=xmp,
        iptc=_block(image, "iptc-data") if tiff is None else tiff.entries.get(IPTC, _NONE)[2],
        text=tuple(_texts(read)) if kind == "png" else (),
        colour=_colour(read) if kind == "png" and icc is None else (),
        resolution=resolution,
    )


def with_cicp(metadata: Metadata, read: Reader) -> tuple[Metadata, list[str]]:
    """Give an AVIF or HEIC without a profile the one that its three numbers for colour mean.

    -> the metadata, and a note where the numbers mean a space that no profile is known of.
    """
    head = read(0, 2**16)
    at = head.find(b"colrnclx")
    if at < 0:
        return metadata, []
    primaries, transfer = struct.unpack_from(">HH", head.ljust(at + 12, b"\0"), at + 8)
    if primaries in (1, 2) and transfer in (1, 2, 6, 13):
        return metadata, []
    if (primaries, transfer) == (12, 13):
        profile = bytes(pyvips.Operation.call("profile_load", "p3"))
        return replace(metadata, icc=profile), []
    return metadata, [f"colour space CICP {primaries}/{transfer} taken for sRGB"]


def png_chunks(read: Reader) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, offset of the content, its length) for every chunk up to the end."""
    at = 8
    for _ in range(1_000_000):
        head = read(at, 8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], at + 8, length
        at += 12 + length


def iptc_for(format: str, iptc: bytes) -> bytes:
    """Return IPTC as the format wants it: in Photoshop's resources for JPEG, bare for TIFF."""
    wrapped = iptc.startswith(_RESOURCES)
    if format == "jpeg" and not wrapped:
        padded = iptc + bytes(len(iptc) % 2)
        return _RESOURCES + b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + padded
    if format == "tiff" and wrapped:
        return _bare(iptc[len(_RESOURCES) :])
    return iptc


def _bare(resources: bytes) -> bytes:
    """Return the resource 0x0404, empty where there is none."""
    at = 0
    while resources[at : at + 4] == b"8BIM":
        kind = resources[at + 4 : at + 6]
        name = resources[at + 6] if at + 6 < len(resources) else 0
        start = at + 6 + name + 2 - name % 2 + 4
        length = int.from_bytes(resources[start - 4 : start], "big")
        if kind == b"\x04\x04":
            return resources[start : start + length]
        at = start + length + length % 2
    return b""


def _texts(read: Reader) -> Iterator[bytes]:
    total = 0
    for kind, at, length in png_chunks(read):
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            total += length
            if total > _MAX_TEXT:
                return
            content = read(at, length)
            if not content.startswith(b"XML:com.adobe.xmp\0"):
                yield kind + content


def _colour(read: Reader) -> tuple[bytes, ...]:
    """Return the chunks cICP, gAMA and cHRM, none where they, or sRGB, say that it is sRGB."""
    chunks = []
    for kind, at, length in png_chunks(read):
        if kind == b"sRGB":
            return ()
        if kind == b"IDAT":
            break
        if kind in (b"cICP", b"gAMA", b"cHRM") and length <= 32:
            chunks.append(kind + read(at, length))
    return () if set(chunks) <= _SRGB else tuple(chunks)


def _is_usable(icc: bytes) -> bool:
    """Try: of a damaged profile libvips says nothing, and leaves it out when it writes."""
    space = {b"RGB ": (3, "srgb"), b"GRAY": (1, "b-w"), b"CMYK": (4, "cmyk")}.get(icc[16:20])
    if space is None:
        return len(icc) > 128  # Its colours are not those of the picture: told when it is written.
    image = pyvips.Image.black(1, 1, bands=space[0]).copy(interpretation=space[1])
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    return icc in bytes(image.tiffsave_buffer(keep="icc"))


def _block(image: Any, name: str) -> bytes | None:
    return bytes(image.get(name)) or None if image.get_typeof(name) else None
