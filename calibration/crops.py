"""Crops of pictures whose shares of pure pixels spread over the whole range there is.

The share decides how many tokens category attention gets, so a check on one picture alone says
little: crops between the purest and the busiest window meet every regime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ppsr.models.pure_pass import purity_mask

CANDIDATES = 144
"""Windows looked at for each size, shared among the pictures."""

Picture = tuple[str, npt.NDArray[np.uint8]]
"""A name and the picture, uint8 H W 3."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A window of a picture."""

    rgb: npt.NDArray[np.uint8]
    """uint8 H W 3."""
    source: str
    """Name of the picture."""
    top: int
    left: int
    pure: float
    """Share of pure pixels of the crop taken by itself, which is how the network sees it."""


def sample_crops(
    pictures: Sequence[Picture], sizes: Sequence[tuple[int, int]], *, seed: int = 0
) -> list[Crop]:
    """Return one crop for each size (H, W), in the order of ``sizes``, no window twice.

    For n sizes the shares aimed at are n even steps from the least to the most pure window that a
    size offers; ``seed`` decides which size gets which step. Name a size k times for k crops of
    it. The same arguments give the same crops. Raises ValueError where there is no picture, a
    size does not fit in every picture, or more crops are asked for than there are windows.
    """
    offered = {size: candidates(pictures, size) for size in dict.fromkeys(sizes)}
    steps = np.linspace(0, 1, len(sizes)) if len(sizes) > 1 else np.full(len(sizes), 0.5)
    goals = np.random.default_rng(seed).permutation(steps)
    ranges = {
        size: (min(crop.pure for crop in crops), max(crop.pure for crop in crops))
        for size, crops in offered.items()
    }
    chosen: dict[int, Crop] = {}
    # Both ends of the range first: no step between them may take their windows.
    for index in np.argsort(-abs(goals - 0.5), kind="stable").tolist():
        size = sizes[index]
        left_over = offered[size]
        if not left_over:
            raise ValueError(
                f"expected at most as many crops as windows, got {sizes.count(size)} crops of "
                f"{_spell(size)}; ask for fewer or give more pictures"
            )
        low, high = ranges[size]
        goal = low + goals[index] * (high - low)
        nearest = min(range(len(left_over)), key=lambda i: abs(left_over[i].pure - goal))
        chosen[index] = left_over.pop(nearest)
    return [chosen[index] for index in range(len(sizes))]


def candidates(
    pictures: Sequence[Picture], size: tuple[int, int], most: int = CANDIDATES
) -> list[Crop]:
    """Cut an even grid of windows (H, W) out of every picture, about ``most`` in all.

    At least one of each picture. Raises ValueError as ``sample_crops`` does.
    """
    if not pictures:
        raise ValueError("expected at least one picture to crop from, got none")
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"expected crops of at least 1x1 pixels, got {_spell(size)}")
    side = max(1, int((most / len(pictures)) ** 0.5))
    crops = []
    for source, rgb in pictures:
        if rgb.shape[0] < height or rgb.shape[1] < width:
            raise ValueError(
                f"expected crops that fit in {source}, {_spell(rgb.shape[:2])} (height x width), "
                f"got {_spell(size)}; ask for smaller crops or leave the picture out"
            )
        rows, columns = (
            np.unique(np.linspace(0, room, side).astype(int)).tolist()
            for room in (rgb.shape[0] - height, rgb.shape[1] - width)
        )
        for top, left in product(rows, columns):
            crop = rgb[top : top + height, left : left + width].copy()
            crops.append(Crop(crop, source, top, left, float(purity_mask(crop).mean())))
    return crops


def _spell(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
