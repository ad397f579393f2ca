"""The sample photo: wood grain, china and a dark corner (docs/sources.md)."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import numpy.typing as npt

from ppsr.runtime.pictures.decode import read_rgb


def sample_photo() -> npt.NDArray[np.uint8]:
    """Return the photo of the demo and the checks. uint8 300 430 3, RGB."""
    with as_file(files("ppsr.calibration") / "coffee.webp") as path:
        return read_rgb(path)
