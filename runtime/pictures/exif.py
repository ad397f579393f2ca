"""EXIF blocks, changed in place: byte for byte the camera's, but for what upscaling makes untrue.

A block is a small TIFF: directories of 12-byte entries, found by offsets from its start. Nothing is
moved, so that offsets a maker's own notes hold stay true.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

PREFIX = b"Exif\0\0"

WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112
X_RESOLUTION, Y_RESOLUTION, UNIT = 0x011A, 0x011B, 0x0128
THUMBNAIL, THUMBNAIL_LENGTH = 0x0201, 0x0202
EXIF_IFD, PIXEL_WIDTH, PIXEL_HEIGHT = 0x8769, 0xA002, 0xA003

SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG, _RATIONAL = 3, 4, 5


class Block:
    """An EXIF block without its prefix. Raises ValueError where it is none."""

    def __init__(self, data: bytes) -> None:
        """Find the order of the bytes."""
        self.data = bytearray(data.removeprefix(PREFIX))
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(self.data[:4]), "")
        if not self.order:
            raise ValueError("no EXIF block")
        self.first = self._number(4, "I")
        list(self.entries(self.first))

    def entries(self, at: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (tag, type, count, offset of the entry) of the directory at ``at``."""
        for index in range(self._number(at, "H")):
            entry = at + 2 + 12 * index
            yield (
                self._number(entry, "H"),
                self._number(entry + 2, "H"),
                self._number(entry + 4, "I"),
                entry,
            )

    def value(self, directory: int, tag: int) -> int | None:
        """Return a whole number, None where there is none of that tag."""
        for found, kind, _, entry in self.entries(directory):
            if found == tag and kind in (_SHORT, _LONG):
                return self._number(entry + 8, "H" if kind == _SHORT else "I")
        return None

    def resolution(self) -> tuple[float, float] | None:
        """Return the pixels per inch, across and down."""
        found = []
        for tag in (X_RESOLUTION, Y_RESOLUTION):
            for other, kind, _, entry in self.entries(self.first):
                if other == tag and kind == _RATIONAL:
                    at = self._number(entry + 8, "I")
                    above, below = self._number(at, "I"), self._number(at + 4, "I")
                    if above and below:
                        found.append(above / below)
        unit = self.value(self.first, UNIT) or 2
        if len(found) != 2 or unit not in (2, 3):
            return None
        factor = 1 if unit == 2 else 2.54
        return found[0] * factor, found[1] * factor

    def update(self, height: int, width: int) -> None:
        """Say that the picture is upright and of that size, and drop the thumbnail."""
        self._set(self.first, {ORIENTATION: 1, WIDTH: width, HEIGHT: height})
        inner = self.value(self.first, EXIF_IFD)
        if inner is not None:
            self._set(inner, {PIXEL_WIDTH: width, PIXEL_HEIGHT: height})
        following = self.first + 2 + 12 * self._number(self.first, "H")
        if following + 4 > len(self.data):  # Some writers leave the last offset out.
            return
        second = self._number(following, "I")
        self._put(following, "I", 0)
        if second:
            try:
                at = self.value(second, THUMBNAIL) or 0
                length = self.value(second, THUMBNAIL_LENGTH) or 0
            except ValueError:
                return
            end = min(at + length, len(self.data))
            if end == len(self.data) and at > second:
                del self.data[at:]
            else:
                self.data[at:end] = bytes(max(end - at, 0))

    def _set(self, directory: int, values: dict[int, int]) -> None:
        for tag, kind, count, entry in list(self.entries(directory)):
            if tag in values and count == 1 and kind in (_SHORT, _LONG):
                short = kind == _SHORT and values[tag] < 65536
                self._put(entry + 2, "H", _SHORT if short else _LONG)
                self._put(entry + 8, "I", 0)
                self._put(entry + 8, "H" if short else "I", values[tag])

    def _number(self, at: int, code: str) -> int:
        try:
            return int(struct.unpack_from(self.order + code, self.data, at)[0])
        except struct.error:
            raise ValueError("the EXIF block ends too early") from None

    def _put(self, at: int, code: str, value: int) -> None:
        struct.pack_into(self.order + code, self.data, at, value)


def updated(data: bytes, height: int, width: int) -> bytes:
    """Return the block for the upright picture of that size, without prefix."""
    block = Block(data)
    block.update(height, width)
    return bytes(block.data)


def minimal(resolution: tuple[float, float]) -> bytes:
    """Return a block that holds the pixels per inch alone."""
    entries = [(X_RESOLUTION, _RATIONAL, 50), (Y_RESOLUTION, _RATIONAL, 58), (UNIT, _SHORT, 2)]
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    numbers = [value for each in resolution for value in (round(each * 1000), 1000)]
    head = struct.pack("<4sIH", b"II*\0", 8, len(entries))
    return head + packed + struct.pack("<5I", 0, *numbers)
