"""Rows on the disc in a form that libvips reads piece by piece: a TIFF without compression.

Of a plain file of pixels libvips would map all into memory.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np

_STRIP = 2**16
_SHORT, _LONG, _LONG8 = 3, 4, 16


def header(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> bytes:
    """Return what comes before the rows, H W C, in a BigTIFF of this machine's byte order."""
    height, width, channels = shape
    row = width * channels * dtype.itemsize
    rows = max(1, _STRIP // row)
    lengths = [min(rows, height - top) * row for top in range(0, height, rows)]
    each = [8 * dtype.itemsize] * channels
    form = [3 if dtype.kind == "f" else 1] * channels
    tags: list[tuple[int, int, list[int]]] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, each),
        (259, _SHORT, [1]),
        (262, _SHORT, [2 if channels > 2 else 1]),
        (273, _LONG8, []),
        (277, _SHORT, [channels]),
        (278, _LONG, [rows]),
        (279, _LONG8, lengths),
        (284, _SHORT, [1]),
        *([(338, _SHORT, [2])] if channels in (2, 4) else []),
        (339, _SHORT, form),
    ]
    tables = 16 + 8 + 20 * len(tags) + 8
    start = tables + 16 * len(lengths)
    tags[5] = (273, _LONG8, [start + rows * row * index for index in range(len(lengths))])
    order = "<" if sys.byteorder == "little" else ">"
    entries, behind = b"", b""
    for tag, kind, values in tags:
        code = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}[kind]
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if tag in (273, 279) and len(values) > 1:
            packed, behind = struct.pack(order + "Q", tables + len(behind)), behind + packed
        entries += struct.pack(order + "HHQ", tag, kind, len(values)) + packed.ljust(8, b"\0")
    first = struct.pack(
        order + "2sHHHQQ", b"II" if order == "<" else b"MM", 43, 8, 0, 16, len(tags)
    )
    return (first + entries + bytes(8) + behind).ljust(start, b"\0")
