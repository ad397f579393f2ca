"""EXIF, resolution and text put into the files that libvips writes, byte for byte.

libvips would put EXIF through a library that rewrites it: makers' notes and letters that are not
ASCII would be lost.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from . import exif as exif_block
from .metadata import Metadata

JPEG_EXIF = 65535 - 2 - len(exif_block.PREFIX)
"""The longest EXIF block that a JPEG holds."""

INCH = 72.0
"""Pixels per inch where nothing is known."""


def jpeg_head(metadata: Metadata) -> bytes:
    """Return what stands behind the first two bytes of a JPEG: JFIF with the resolution, EXIF."""
    across, down = (min(max(round(each), 1), 65535) for each in metadata.resolution or (INCH, INCH))
    head = b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF\0", 0x0102, 1, across, down, 0, 0)
    if metadata.exif is not None and len(metadata.exif) <= JPEG_EXIF:
        payload = exif_block.PREFIX + metadata.exif
        head += b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    return head


def png_head(metadata: Metadata) -> bytes:
    """Return what stands behind the header of a PNG: profile, EXIF and texts.

    libpng would refuse to write what it finds fault with.
    """
    chunks = [] if metadata.icc is None else [b"iCCPICC profile\0\0" + zlib.compress(metadata.icc)]
    if metadata.exif is not None:
        chunks.append(b"eXIf" + metadata.exif)
    if metadata.xmp is not None:
        chunks.append(b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    return b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (*metadata.colour, *chunks, *metadata.text)
    )


def block_for(metadata: Metadata) -> bytes | None:
    """Return the EXIF of formats that have no other place for the resolution."""
    if metadata.exif is None and metadata.resolution is not None:
        return exif_block.minimal(metadata.resolution)
    return metadata.exif


def webp_with_exif(data: bytes, exif: bytes, size: tuple[int, int], alpha: bool) -> bytes:
    """Return a WebP with an EXIF block added. ``size`` is H W."""
    chunks = list(_webp_chunks(data))
    if chunks[0][:4] != b"VP8X":
        height, width = (side - 1 for side in size)
        sizes = width.to_bytes(3, "little") + height.to_bytes(3, "little")
        chunks.insert(0, b"VP8X" + struct.pack("<I", 10) + bytes([16 * alpha, 0, 0, 0]) + sizes)
    first = bytearray(chunks[0])
    first[8] |= 8  # There is EXIF.
    at = next((i for i, chunk in enumerate(chunks) if chunk[:4] == b"XMP "), len(chunks))
    chunks.insert(at, b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2))
    body = b"WEBP" + bytes(first) + b"".join(chunks[1:])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 8 + length + length % 2]
        at += 8 + length + length % 2


def avif_with_exif(data: bytes, exif: bytes) -> bytes:
    """Return an AVIF whose EXIF item is ``exif``, put at the end; the old one stays unused."""
    meta = _box(data, 0, len(data), b"meta")
    inside = meta[0] + 4, meta[1]
    item = _exif_item(data, *_box(data, *inside, b"iinf"))
    payload = bytes(4) + exif
    start = len(data) + 8
    changed = bytearray(data)
    _point(changed, *_box(data, *inside, b"iloc"), item, start, len(payload))
    return bytes(changed) + struct.pack(">I", len(payload) + 8) + b"mdat" + payload


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if size == 0 else start + size
        yield data[start + 4 : start + 8], start + head, stop
        start = stop


def _box(data: bytes, start: int, end: int, kind: bytes) -> tuple[int, int]:
    """Return where the content of the first box of a kind begins and ends."""
    return next((at, stop) for found, at, stop in _boxes(data, start, end) if found == kind)


def _exif_item(data: bytes, start: int, end: int) -> int:
    first = start + (6 if data[start] == 0 else 8)
    for kind, at, _ in _boxes(data, first, end):
        wide = 4 if data[at] == 3 else 2
        if kind == b"infe" and data[at + 6 + wide : at + 10 + wide] == b"Exif":
            return int.from_bytes(data[at + 4 : at + 4 + wide], "big")
    raise ValueError("the AVIF has no EXIF item")


def _point(data: bytearray, start: int, end: int, item: int, offset: int, length: int) -> None:
    """Let the entry of ``item`` in the box iloc point elsewhere in the file."""
    version = data[start]
    sizes = [data[start + 4] >> 4, data[start + 4] & 15, data[start + 5] >> 4, data[start + 5] & 15]
    offsets, lengths, base, index = sizes if version else [*sizes[:3], 0]
    wide = 4 if version == 2 else 2
    at = start + 6 + wide
    while at < end:
        found = int.from_bytes(data[at : at + wide], "big")
        at += wide
        if version:
            if found == item:
                data[at : at + 2] = bytes(2)  # Counted from the start of the file.
            at += 2
        at += 2
        if found == item:
            data[at : at + base] = bytes(base)
        at += base
        extents = int.from_bytes(data[at : at + 2], "big")
        at += 2
        for _ in range(extents):
            at += index
            if found == item:
                data[at : at + offsets] = offset.to_bytes(offsets, "big")
                data[at + offsets : at + offsets + lengths] = length.to_bytes(lengths, "big")
                return
            at += offsets + lengths
    raise ValueError("the AVIF does not say where its EXIF item is")
