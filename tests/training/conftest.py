"""A folder of real photos to train on, and options of runs that take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from ppsr.training.options import TrainOptions


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two RGB photos of odd sizes, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, height, width in (("coffee", 121, 143), ("more/chelsea", 101, 97)):
        rgb = getattr(data, Path(name).name)()[50 : 50 + height, 60 : 60 + width]
        Image.fromarray(np.ascontiguousarray(rgb)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def options(photos: Path) -> Callable[..., TrainOptions]:
    """``options(steps=4, ...)``: a short run on patches of 16 x 16, in float32."""

    def make(**values: Any) -> TrainOptions:
        short = {
            "data": str(photos),
            "patch": 16,
            "batch": 2,
            "steps": 4,
            "warm_up": 2,
            "log_every": 2,
            "precision": "fp32",
            "device": "cpu",
        }
        return TrainOptions(**{**short, **values})

    return make
