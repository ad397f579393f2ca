"""Pictures to calibrate with: crops of ground truth and what they are shrunk to.

Layers behind the mask see hard pixels only, so crops are drawn evenly over the shares of pure
pixels that there are: by chance alone, most would be of one kind.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PictureError, UsageError
from ppsr.models.pure_pass import GRID
from ppsr.runtime.dataset import find_pictures, read_ground_truth
from ppsr.runtime.imresize import degrade

from .crops import candidates

SIDE = 96
"""Of a crop at most, in low resolution."""
WINDOWS = 9
"""Looked at in each picture, at least: many pictures say more than many windows."""
LOOKED_AT = 4
"""Pictures that are read for each crop that is wanted, at most."""

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sample:
    """A crop, small and large."""

    name: str
    """Of its picture, with its left and top corner in low resolution; unique."""
    lr: Rgb
    """uint8 H W 3: what the network gets."""
    hr: Rgb
    """uint8 S*H S*W 3: ground truth."""


@dataclass(frozen=True)
class PictureFile:
    """A picture of ground truth."""

    name: str
    """Its path below the folder that was given; unique."""
    path: Path


@dataclass(frozen=True)
class Window:
    """Where a sample lies in its picture, in low resolution."""

    picture: PictureFile
    top: int
    left: int
    size: tuple[int, int]
    pure: float
    """Share of pure pixels of the crop by itself."""


@dataclass(frozen=True)
class Samples:
    """Chosen windows; every pass reads the pictures again, one at a time."""

    windows: tuple[Window, ...]
    """Those of one picture together."""
    scale: int

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Sample]:
        """Cut them out, in the order of ``windows``. Raises PictureError as reading does."""
        picture, scale = None, self.scale
        for window in self.windows:
            if window.picture != picture:
                picture = window.picture
                small, truth = degrade(read_ground_truth(picture.path), scale)
            (height, width), top, left = window.size, window.top, window.left
            yield Sample(
                f"{picture.name} {left},{top}",
                small[top : top + height, left : left + width].copy(),
                truth[
                    scale * top : scale * (top + height), scale * left : scale * (left + width)
                ].copy(),
            )


def list_pictures(data: Iterable[Path]) -> list[PictureFile]:
    """Return the pictures of folders, with all below them, and picture files as they are, by name.

    One that comes twice, by its content, is taken once. Raises UsageError where a folder holds
    none, or a file cannot be read.
    """
    found: dict[str, PictureFile] = {}
    names: Counter[str] = Counter()
    for place in data:
        below = not place.is_file()
        for path in find_pictures(place) if below else [place]:
            content = _digest(path)
            if content not in found:
                name = path.relative_to(place).as_posix() if below else path.name
                names[name] += 1
                number = f" ({names[name]})" if names[name] > 1 else ""
                found[content] = PictureFile(name + number, path)
    return sorted(found.values(), key=lambda picture: picture.name)


def split(
    pictures: Sequence[PictureFile], *, seed: int = 0
) -> tuple[list[PictureFile], list[PictureFile]]:
    """Split pictures in two halves: to calibrate with, and held out; the first has one more.

    The same pictures and ``seed`` give the same halves. Raises UsageError for less than two.
    """
    if len(pictures) < 2:
        raise UsageError(
            "expected at least two different pictures, one of them to hold out, got "
            f"{len(pictures)}; give a folder with more"
        )
    order = np.random.default_rng(seed).permutation(len(pictures)).tolist()
    half = (len(pictures) + 1) // 2
    return [pictures[i] for i in sorted(order[:half])], [pictures[i] for i in sorted(order[half:])]


def draw(
    pictures: Sequence[PictureFile], scale: int, count: int, *, side: int = SIDE, seed: int = 0
) -> Samples:
    """Choose ``count`` crops, less where there are no more windows, their purity spread evenly.

    Crops are ``side`` wide and high in low resolution; where a picture is smaller, as much as it
    has. Pictures of less than 16 pixels at a side, in low resolution, are left out. Of more
    pictures than 4 for each crop, as many are read, drawn by ``seed``. The same arguments give the
    same crops. Raises UsageError where no picture is large enough, PictureError where one that is
    read is none.
    """
    if count < 1 or side < GRID:
        raise UsageError(
            f"expected at least one crop, of at least {GRID} pixels a side, got {count} of {side}"
        )
    chance = np.random.default_rng(seed)
    drawn = sorted(chance.permutation(len(pictures))[: LOOKED_AT * count].tolist())
    most = max(WINDOWS, LOOKED_AT * count // max(1, len(drawn)))
    windows = [one for index in drawn for one in _windows(pictures[index], scale, side, most)]
    if not windows:
        least = scale * GRID
        raise UsageError(
            f"expected pictures of at least {least}x{least} pixels, got none; give larger ones"
        )
    shuffled = [windows[index] for index in chance.permutation(len(windows))]
    chosen = _spread(shuffled, min(count, len(windows)))
    chosen.sort(key=lambda window: (window.picture.name, window.top, window.left))
    return Samples(tuple(chosen), scale)


def _windows(picture: PictureFile, scale: int, side: int, most: int) -> Iterator[Window]:
    truth = read_ground_truth(picture.path)
    if min(truth.shape[:2]) < scale * GRID:
        return
    small = degrade(truth, scale)[0]
    size = min(side, small.shape[0]), min(side, small.shape[1])
    for crop in candidates([(picture.name, small)], size, most):
        yield Window(picture, crop.top, crop.left, size, crop.pure)


def _spread(windows: list[Window], count: int) -> list[Window]:
    """Take windows at even steps from the least to the most pure, of all pictures alike.

    Among those within half a step of where one is wanted, the picture that was taken least goes
    first; of equals the first in ``windows``.
    """
    low, high = (end(window.pure for window in windows) for end in (min, max))
    reach = (high - low) / max(2, 2 * count - 2)
    goals = np.linspace(low, high, count) if count > 1 else [(low + high) / 2]
    left_over, taken = list(windows), Counter[str]()
    chosen = []
    for goal in goals:

        def rank(window: Window, goal: float = goal) -> tuple[float, int]:
            miss = abs(window.pure - goal)
            return 0.0 if miss <= reach else miss, taken[window.picture.name]

        best = min(left_over, key=rank)
        left_over.remove(best)
        taken[best.picture.name] += 1
        chosen.append(best)
    return chosen


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PictureError(f"cannot read {path}: {error.strerror}") from error
