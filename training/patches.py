"""Patches to train on: pictures are decoded and shrunk once, then cut, flipped and rotated.

What step n sees follows from the seed and n alone, so a resumed run goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import UsageError
from ppsr.runtime.dataset import read_ground_truth
from ppsr.runtime.imresize import degrade

Rgb = npt.NDArray[np.uint8]
Batch = tuple[Rgb, Rgb]
"""Low resolution uint8 B P P 3, ground truth uint8 B S*P S*P 3."""


class Patches:
    """Random patches of pictures kept in memory: (1 + 1/S^2) * 3 bytes for each of their pixels."""

    def __init__(self, pairs: Sequence[tuple[Rgb, ...]], scale: int, patch: int) -> None:
        """pairs: (low resolution uint8 h w 3, ground truth uint8 S*h S*w 3)."""
        self.scale, self.patch = scale, patch
        self._pairs = [pair for pair in pairs if min(pair[0].shape[:2]) >= patch]
        self.too_small = len(pairs) - len(self._pairs)
        if not self._pairs:
            raise UsageError(
                f"expected pictures of at least {scale * patch} x {scale * patch} pixels, "
                f"got {len(pairs)} smaller ones; use larger pictures or a smaller --patch"
            )
        area = np.array([low.shape[0] * low.shape[1] for low, _ in self._pairs], np.float64)
        self._share = np.cumsum(area) / area.sum()

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        scale: int,
        patch: int,
        on_picture: Callable[[int, int], object] = lambda _read, _all: None,
    ) -> Patches:
        """Decode and shrink pictures. Raises PictureError for one that cannot be read."""

        pairs = []
        with ThreadPoolExecutor() as pool:
            for pair in pool.map(lambda path: degrade(read_ground_truth(path), scale), paths):
                pairs.append(pair)
                on_picture(len(pairs), len(paths))
        return cls(pairs, scale, patch)

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, seed: int, step: int, size: int, draws: int = 1) -> Batch:
        """Draw ``size`` patches, pictures by their area, in one of eight orientations each.

        Of ``draws`` crops the one with the most texture is taken: flat ones teach little.
        """
        random = np.random.default_rng((seed, step))
        pairs = [self._patch(random, draws) for _ in range(size)]
        low, high = zip(*pairs, strict=True)
        return np.stack(low), np.stack(high)

    def _patch(self, random: np.random.Generator, draws: int) -> tuple[Rgb, Rgb]:
        crops = [self._crop(random) for _ in range(draws)]
        low, high = max(crops, key=lambda crop: _texture(crop[0])) if draws > 1 else crops[0]
        turn = int(random.integers(8))
        return _orient(low, turn), _orient(high, turn)

    def _crop(self, random: np.random.Generator) -> tuple[Rgb, Rgb]:
        index = int(np.searchsorted(self._share, random.random(), "right"))
        low, high = self._pairs[min(index, len(self._pairs) - 1)]
        p, s = self.patch, self.scale
        top, left = (int(random.integers(side - p + 1)) for side in low.shape[:2])
        return (
            low[top : top + p, left : left + p],
            high[s * top : s * (top + p), s * left : s * (left + p)],
        )


def _texture(rgb: Rgb) -> float:
    """Mean absolute difference of neighbours, in green."""
    green = rgb[..., 1].astype(np.int16)
    return float(abs(np.diff(green, axis=0)).mean() + abs(np.diff(green, axis=1)).mean())


def _orient(rgb: Rgb, turn: int) -> Rgb:
    """One of the eight flips and rotations."""
    if turn & 1:
        rgb = rgb[::-1]
    if turn & 2:
        rgb = rgb[:, ::-1]
    return rgb.swapaxes(0, 1) if turn & 4 else rgb
