"""The sample photo: wood grain, china and a dark corner (docs/sources.md)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pyvips


def sample_photo() -> npt.NDArray[np.uint8]:
    """Return the photo of the demo and the checks. uint8 300 430 3, RGB."""
    data = files("ppsr.calibration").joinpath("coffee.webp").read_bytes()
    rgb: npt.NDArray[np.uint8] = pyvips.Image.new_from_buffer(data, "").numpy()
    return rgb
