"""Folders of ground-truth pictures, to measure with and to train on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import UsageError

from .pictures.decode import read_rgb

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class PictureSet:
    """A folder of ground truth."""

    name: str
    folder: Path
    paths: tuple[Path, ...]


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder and the folders below it, by path.

    Hidden files and folders are left out. Raises UsageError where there is no such folder, or no
    picture in it.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise UsageError(f"expected a folder of pictures, got {found}: {folder}")
    found_pictures = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found_pictures:
        raise UsageError(f"{folder} holds no picture; expected files in {', '.join(SUFFIXES)}")
    return found_pictures


def find_sets(folders: Iterable[Path], limit: int | None = None) -> list[PictureSet]:
    """Find the pictures of every folder, of each at most the first ``limit``.

    A set is named like its folder, by the whole path where two folders share a name. Raises
    UsageError where a folder is missing, empty or given twice.
    """
    folders = list(folders)
    places = [folder.resolve() for folder in folders]
    names = [place.name for place in places]
    sets = []
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{folder} is given twice; name each folder once")
        name = place.name if names.count(place.name) == 1 else str(place)
        sets.append(PictureSet(name, folder, tuple(find_pictures(folder)[:limit])))
    return sets


def read_ground_truth(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture as benchmarks take it: grey as three equal channels. -> uint8 H W 3.

    Raises PictureError as ``read_rgb`` does.
    """
    return read_rgb(path, expand_grey=True)
