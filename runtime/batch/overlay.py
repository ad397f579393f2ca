"""Pictures to look at: what the mask exempts, and ours beside bicubic. 8-bit RGB, made by rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ppsr.runtime.imresize import imresize
from ppsr.runtime.pixels import Array, Pixels
from ppsr.runtime.routing import Skipped

Rgb = npt.NDArray[np.uint8]

TINT: Final = np.array([255, 0, 160], np.uint16)
"""Magenta: rare in photos, and told from them with any kind of colour vision."""
ROWS = 256
"""Rows that are worked on together, at least; the picture's own, where it has fewer."""
REACH = 4
"""Rows around that bicubic looks at."""
LARGEST = 30
"""Of the label's dots, in pixels: a label is 7 of them high, and must fit into ``ROWS``."""

GLYPHS: Final = {
    "0": "### #.# #.# #.# ###",
    "1": ".#. ##. .#. .#. ###",
    "2": "### ..# ### #.. ###",
    "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#",
    "5": "### #.. ### ..# ###",
    "6": "### #.. ### #.# ###",
    "7": "### ..# .#. .#. .#.",
    "8": "### #.# ### #.# ###",
    "9": "### #.# ### ..# ###",
    ".": "... ... ... ... .#.",
    "%": "#.# ..# .#. #.. #.#",
    " ": "... ... ... ... ...",
}
"""No font of the machine is needed, so none can be missing."""


def tinted(picture: Pixels, skipped: Skipped) -> Iterator[Rgb]:
    """Show what was skipped where, and how much at the bottom left. Yields rows, uint8 H' W 3.

    The more is skipped, the stronger the tint. The label stands at the bottom because the share is
    known there. A picture that is smaller than the label has none.
    """
    height, width = picture.shape[:2]
    total, most = 0, skipped.most
    for top in range(0, max(ROWS, height - ROWS + 1), ROWS):
        bottom = top + ROWS if top + 2 * ROWS <= height else height
        rows = to_rgb(picture.rows(top, bottom))
        found = skipped.rows(top, bottom).astype(np.uint16)
        total += int(found.sum())
        share = found[..., None]
        rows = ((rows * (2 * most - share) + TINT * share) // (2 * most)).astype(np.uint8)
        if bottom == height:
            label = skipped.label or f"{100 * total / (most * height * width):.1f} %"
            _write_label(rows, label, height)
        yield rows


class Beside:
    """Puts bicubic at the left of ours."""

    def __init__(self, picture: Pixels, scale: int) -> None:
        self._picture, self._scale = picture, scale
        height, width, _ = picture.shape
        self.shape = (scale * height, 2 * scale * width, 3)
        self._done = 0

    def next(self, ours: Array) -> Rgb:
        """Take the next rows of ours, H' S*W C. -> uint8 H' 2*S*W 3."""
        top, self._done = self._done, self._done + len(ours)
        return np.concatenate([self._bicubic(top, self._done), to_rgb(ours)], axis=1)

    def _bicubic(self, top: int, bottom: int) -> Rgb:
        """Return rows of MATLAB's bicubic, those of the whole picture bit for bit."""
        first = max(0, top // self._scale - REACH)
        last = min(self._picture.shape[0], -(-bottom // self._scale) + REACH)
        larger = imresize(to_rgb(self._picture.rows(first, last)), self._scale)
        return larger[top - first * self._scale : bottom - first * self._scale]


def to_rgb(rows: Array) -> Rgb:
    """Show any picture in 8 bits: grey as three channels, alpha over white. -> uint8 H W 3, new."""
    levels: npt.NDArray[Any]
    if rows.dtype == np.uint16:
        levels = ((rows.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif rows.dtype == np.uint8:
        levels = rows
    else:
        levels = np.rint(rows.clip(0, 1) * 255).astype(np.uint8)
    colours = levels[..., :3] if rows.shape[2] >= 3 else levels[..., :1].repeat(3, 2)
    if rows.shape[2] in (2, 4):
        alpha = levels[..., -1:].astype(np.uint16)
        colours = ((colours * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.array(colours, order="C")


def _write_label(rows: Rgb, text: str, height: int) -> None:
    """Write white on black into the bottom left corner, as large as suits the picture."""
    dots = _dots(text)
    width = rows.shape[1]
    size = min(LARGEST, max(1, min(height, width) // 80))
    box = dots.repeat(size, 0).repeat(size, 1)
    if box.shape[0] <= height and box.shape[1] <= width:
        rows[len(rows) - len(box) :, : box.shape[1]] = 255 * box[..., None]


def _dots(text: str) -> npt.NDArray[np.uint8]:
    """Draw text with a margin of one dot. -> 7 x 4n+1 of 0 and 1."""
    picture = np.zeros((7, 4 * len(text) + 1), np.uint8)
    for index, letter in enumerate(text):
        for line, dots in enumerate(GLYPHS[letter].split()):
            picture[1 + line, 4 * index + 1 : 4 * index + 4] = [dot == "#" for dot in dots]
    return picture
