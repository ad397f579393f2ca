"""The directories of TIFF files: of EXIF libvips knows nothing there, and IPTC it cuts off."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import numpy as np

from .exif import EXIF_IFD, SIZES
from .reader import Reader

IPTC = 33723
GPS_IFD, INTEROPERABILITY_IFD = 0x8825, 0xA005

# The description, the camera, the software, the author, the rating, Windows' own; the resolution.
_DESCRIPTIVE: Final = frozenset(
    {270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)}
)
_RESOLUTION: Final = frozenset({282, 283, 296})

_MOST_ENTRIES, _MOST_BYTES = 4096, 2**24


@dataclass(frozen=True)
class Layout:
    """How numbers stand in a file."""

    order: str
    """< or >."""
    big: bool
    """BigTIFF."""

    @property
    def offset(self) -> str:
        """The code of an offset."""
        return "Q" if self.big else "I"

    def unpack(self, code: str, data: bytes) -> int:
        """Return one number. Raises ValueError where the file ends."""
        try:
            return int(struct.unpack(self.order + code, data)[0])
        except struct.error:
            raise ValueError("the file ends too early") from None


@dataclass(frozen=True)
class Directory:
    """Tags with (type, count, little-endian bytes), and the directories that tags point to."""

    entries: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the whole numbers of a tag, none where it is missing."""
        kind, _, data = self.entries.get(tag, (0, 0, b""))
        width = {1: 1, 3: 2, 4: 4, 16: 8}.get(kind)
        if width is None:
            return ()
        return tuple(
            int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)
        )


def read_tiff(read: Reader) -> Directory:
    """Read the first directory of a TIFF, BigTIFF or EXIF block, and those of EXIF in it.

    Of tags with many values only those of EXIF are read. Raises ValueError where it is damaged.
    """
    head = read(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("no TIFF")
    big = Layout(order, False).unpack("H", head[2:4]) == 43
    layout = Layout(order, big)
    at = layout.unpack(layout.offset, head[8:16] if big else head[4:8])
    first = _read(read, at, layout)
    for tag in (EXIF_IFD, GPS_IFD):
        _descend(read, first, tag, layout)
    if EXIF_IFD in first.children:
        _descend(read, first.children[EXIF_IFD], INTEROPERABILITY_IFD, layout)
    return first


def _descend(read: Reader, directory: Directory, tag: int, layout: Layout) -> None:
    kind, _, data = directory.entries.pop(tag, (0, 0, b""))
    if kind in (4, 13, 16, 18) and data:
        directory.children[tag] = _read(read, int.from_bytes(data, "little"), layout)


def _read(read: Reader, at: int, layout: Layout) -> Directory:
    size, length, room = (8, 20, 8) if layout.big else (2, 12, 4)
    count = layout.unpack("Q" if layout.big else "H", read(at, size))
    if count > _MOST_ENTRIES:
        raise ValueError(f"{count} tags")
    table = read(at + size, count * length)
    found = Directory()
    total = 0
    for start in range(0, count * length, length):
        entry = table[start : start + length]
        tag, kind = layout.unpack("H", entry[:2]), layout.unpack("H", entry[2:4])
        values = layout.unpack(layout.offset, entry[4 : length - room])
        width = SIZES.get(kind) or {16: 8, 17: 8, 18: 8}.get(kind)
        if width is None:
            continue
        wanted = values * width
        data = entry[length - room :][:wanted]
        if wanted > room:
            total += wanted
            if total > _MOST_BYTES:  # The tables of a large picture; or a lie.
                continue
            data = read(layout.unpack(layout.offset, entry[length - room :]), wanted)
        if len(data) == wanted:
            order = "<" if tag == IPTC else layout.order  # Bytes, whatever is said of them.
            found.entries[tag] = (kind, values, _swapped(data, kind, order))
    return found


def _swapped(data: bytes, kind: int, order: str) -> bytes:
    width = {3: 2, 8: 2, 4: 4, 5: 4, 9: 4, 10: 4, 11: 4, 13: 4, 12: 8, 16: 8, 17: 8, 18: 8}
    if order == "<" or kind not in width:
        return data
    return np.frombuffer(data, f">u{width[kind]}").astype(f"<u{width[kind]}").tobytes()


def exif_of(tiff: Directory) -> bytes | None:
    """Return what a TIFF file says of its picture as an EXIF block, None where it says nothing."""
    wanted = _DESCRIPTIVE | _RESOLUTION
    kept = {tag: value for tag, value in tiff.entries.items() if tag in wanted}
    if not tiff.children and not kept.keys() & _DESCRIPTIVE:
        return None
    own = Directory(kept, tiff.children)
    return b"II*\0" + struct.pack("<I", 8) + _packed(own, 8, Layout("<", False))


def add_metadata(file: BinaryIO, exif: bytes | None, iptc: bytes | None) -> None:
    """Add an EXIF block and IPTC to a TIFF: a new first directory at its end."""
    source = Directory()
    if exif is not None:
        source = read_tiff(lambda at, length: exif[at : at + length])
    file.seek(0)
    head = file.read(16)
    layout = Layout("<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+"))

    def read(at: int, length: int) -> bytes:
        file.seek(at)
        return file.read(length)

    at = layout.unpack(layout.offset, head[8:16] if layout.big else head[4:8])
    size, length = (8, 20) if layout.big else (2, 12)
    count = layout.unpack("Q" if layout.big else "H", read(at, size))
    table = read(at + size, count * length)
    raw = {
        layout.unpack("H", table[i : i + 2]): table[i : i + length]
        for i in range(0, len(table), length)
    }
    kept = {tag: value for tag, value in source.entries.items() if tag in _DESCRIPTIVE}
    if iptc is not None:
        kept[IPTC] = (7, len(iptc), iptc)
    end = file.seek(0, 2)
    start = end + end % 2
    own = Directory({t: v for t, v in kept.items() if t not in raw}, source.children)
    data = _packed(own, start, layout, raw)
    file.write(bytes(end % 2) + data)
    file.seek(8 if layout.big else 4)
    file.write(struct.pack(layout.order + layout.offset, start))
    file.flush()


def _packed(
    directory: Directory, at: int, layout: Layout, raw: Mapping[int, bytes] | None = None
) -> bytes:
    """Return a directory that begins at ``at``, with its values and children behind it.

    ``raw`` are entries as they stand already, in that layout.
    """
    order, offset = layout.order, layout.offset
    size, length, room = (8, 20, 8) if layout.big else (2, 12, 4)
    table = dict(raw or {})
    names = {*table, *directory.entries, *directory.children}
    behind = at + size + length * len(names) + room
    values = b""
    for tag, (kind, count, data) in directory.entries.items():
        data = _swapped(data, kind, order)
        packed = data.ljust(room, b"\0")
        if len(data) > room:
            packed = struct.pack(order + offset, behind + len(values))
            values += data + bytes(len(data) % 2)
        table[tag] = struct.pack(f"{order}HH{offset}", tag, kind, count) + packed
    for tag, child in directory.children.items():
        place = behind + len(values)
        kind = 16 if layout.big else 4
        table[tag] = struct.pack(f"{order}HH{offset}{offset}", tag, kind, 1, place)
        values += _packed(child, place, layout)
    head = struct.pack(order + ("Q" if layout.big else "H"), len(names))
    return head + b"".join(table[tag] for tag in sorted(table)) + bytes(room) + values
