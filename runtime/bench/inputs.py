"""What is timed: whole pictures, or crops of them of chosen sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import numpy.typing as npt

from ppsr.calibration.crops import Crop, Picture, candidates
from ppsr.calibration.photo import sample_photo
from ppsr.models.errors import UsageError
from ppsr.runtime.dataset import find_pictures, read_ground_truth
from ppsr.runtime.pictures.encode import PictureWriter, choose_encoding
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.sidecar import Size

Rgb = npt.NDArray[np.uint8]

DEFAULT_SIZE: Size = (128, 192)
CROPS = 3
"""Of each size: the least, the middle and the most pure that there are."""
WINDOWS = 400
"""Crops that are looked at where many shares of pure pixels are wanted."""
LONGEST = 2**16


@dataclass(frozen=True, eq=False)
class Input:
    """One picture, or a crop of one."""

    name: str
    """Of a crop: with its left and top corner. No folders but those below what was given."""
    rgb: Rgb
    """uint8 H W 3."""

    @property
    def size(self) -> Size:
        """H W."""
        return self.rgb.shape[0], self.rgb.shape[1]


def size_option(text: str) -> Size:
    """Take WIDTHxHEIGHT in pixels -> (height, width). A type for click."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    width, height = map(int, found.groups()) if found else (0, 0)
    if not (1 <= width <= LONGEST and 1 <= height <= LONGEST):
        raise click.BadParameter(f"expected a size like 192x128 (width x height), got {text!r}")
    return height, width


def find_files(data: Sequence[Path]) -> dict[str, Path]:
    """Return the pictures by name: files as they are, folders with all below them.

    Raises UsageError where a folder holds none.
    """
    found: dict[str, Path] = {}
    for path in data:
        below = path.is_dir()
        for one in find_pictures(path) if below else [path]:
            name = click.format_filename(one.relative_to(path) if below else one.name)
            if one not in found.values():
                found[name if name not in found else f"{name} ({len(found) + 1})"] = one
    return found


def read_all(paths: Mapping[str, Path]) -> list[Picture]:
    """Read the pictures, grey as RGB; without any, the sample photo. Raises PictureError."""
    if not paths:
        return [("sample photo", sample_photo())]
    return [(name, read_ground_truth(path)) for name, path in paths.items()]


def choose(pictures: Sequence[Picture], sizes: Sequence[Size], whole: bool) -> list[Input]:
    """Return what is timed: the pictures as they are, or ``CROPS`` crops of each size (H, W).

    Raises UsageError where a size fits in no picture.
    """
    if whole:
        return [Input(name, rgb) for name, rgb in pictures]
    chosen = []
    for size in dict.fromkeys(sizes):
        ranked = sorted(candidates(_holding(pictures, size), size), key=lambda crop: crop.pure)
        places = np.linspace(0, len(ranked) - 1, CROPS).round().astype(int)
        chosen += [ranked[place] for place in np.unique(places).tolist()]
    return [as_input(crop) for crop in chosen]


def many_crops(pictures: Sequence[Picture], size: Size) -> list[Crop]:
    """Return crops of one size (H, W) from all over the pictures. Raises UsageError as ``choose``.

    Pictures that are smaller are left out.
    """
    return candidates(_holding(pictures, size), size, WINDOWS)


def as_input(crop: Crop) -> Input:
    """Name a crop by where it was cut."""
    return Input(f"{crop.source} {crop.left},{crop.top}", crop.rgb)


@contextmanager
def one_file(first: Input, given: Path | None) -> Iterator[Path]:
    """Give a real file to time reading with: ``given``, else ``first`` as a PNG, then removed."""
    if given is not None:
        yield given
        return
    with TemporaryDirectory(prefix="ppsr-bench-") as folder:
        path = Path(folder, "crop.png")
        encoding = choose_encoding("png", ArrayPixels(first.rgb), scale=1, depth=None, quality=None)
        with PictureWriter(path, (*first.size, 3), encoding, None) as writer:
            writer.write(first.rgb)
        yield path


def _holding(pictures: Sequence[Picture], size: Size) -> list[Picture]:
    """Return the pictures that hold a crop of this size (H, W)."""
    height, width = size
    large = [one for one in pictures if one[1].shape[0] >= height and one[1].shape[1] >= width]
    if not large:
        raise UsageError(
            f"no picture holds a crop of {width}x{height} (width x height); "
            "choose a smaller --size, or name larger pictures with --data"
        )
    return large
