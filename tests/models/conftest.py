"""Pictures and small networks for the tests of ppsr.models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage import data

from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.models.checkpoint import read_checkpoint
from ppsr.models.config import Config, PurePass
from ppsr.models.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "channels": 12,
    "depths": (2, 2),
    "heads": 2,
    "dictionary": 16,
    "reduced": 4,
    "hidden": 12,
    "kernel": 3,
}

Picture = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The pictures are small: more threads gain little, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def photo() -> Callable[..., Picture]:
    """``photo("coffee", height, width, top, left)``: a crop of a real photo, uint8 H W 3."""

    def crop(name: str, height: int, width: int, top: int = 0, left: int = 0) -> Picture:
        whole: Picture = getattr(data, name)()
        return whole[top : top + height, left : left + width].copy()

    return crop


@pytest.fixture(scope="session")
def half_pure(photo: Callable[..., Picture]) -> Picture:
    """64 x 48: the upper half a photo without a pure window, the lower half one colour."""
    upper = photo("coffee", 32, 48, 100, 10)
    return np.concatenate((upper, np.full_like(upper, (200, 40, 40))))


@pytest.fixture(scope="session")
def to_image() -> Callable[..., torch.Tensor]:
    """uint8 H W 3 -> 1 3 H W in [0, 1], float64 unless told."""

    def convert(rgb: Picture, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1).unsqueeze(0).to(dtype) / 255

    return convert


@pytest.fixture(scope="session")
def small() -> Callable[..., ATD]:
    """``small(pure_pass=..., **config)``: a seeded small ATD, float64, eval, no weight at rest."""

    def make(pure_pass: PurePass | None = None, **changes: Any) -> ATD:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            network = ATD(Config(**{**SMALL, "pure_pass": pure_pass, **changes}))
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.1 * torch.randn_like(parameter)
        return network.double().eval()

    return make


@pytest.fixture(scope="session")
def state() -> dict[str, torch.Tensor]:
    """The 682 tensors of a random ATD-light x2. Copy before changing one."""
    return dict(build("atd-light", 2, weights=None).state_dict())


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """``saved(content)``: a .pth with it."""

    def write(content: object, name: str = "weights.pth") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def refused() -> Callable[..., None]:
    """``refused(path, *words)``: reading fails with one line, the path and ``words`` in it."""

    def check(path: Path | str, *words: str, scale: int = 2) -> None:
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(path, scale)
        message = str(error.value)
        assert message.startswith(f"{path}: expected")
        assert "\n" not in message
        assert error.value.exit_code == 2
        for word in words:
            assert word in message, message

    return check
