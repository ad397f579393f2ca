from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from ppsr.models.errors import CheckpointError, UsageError
from ppsr.models.factory import build
from ppsr.runtime.imresize import degrade, imresize
from ppsr.runtime.metrics import psnr, psnr_y
from ppsr.training.options import TrainOptions
from ppsr.training.start import rescale_last, starting_network


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    return degrade(data.astronaut()[:144, 100:292], 4)


def enlarge(model: torch.nn.Module, low: np.ndarray) -> np.ndarray:
    image = torch.tensor(low).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        out = model.eval()(image)[0]
    return out.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("name", "scale"),
    [*(("pp-atd-light", scale) for scale in (2, 3, 4)), ("camixer-atd-light", 2), ("adaformer", 4)],
)
def test_from_nothing_means_bicubic(
    options: Callable[..., TrainOptions], pair: tuple, name: str, scale: int
) -> None:
    """The mirror at the edges and the mean's zero padding aside, as near as the body's start."""
    model = starting_network(options(init="bicubic", model=name, scale=scale))
    assert model.training
    assert model.scale == scale
    border = 4 * scale
    inside = (slice(border, -border), slice(border, -border))
    made = enlarge(model, pair[0])[inside]
    assert psnr(made, imresize(pair[0], scale)[inside]) > 42
    assert psnr(made, pair[0].repeat(scale, 0).repeat(scale, 1)[inside]) < 40


def test_networks_without_shipped_weights_start_from_something_else(
    options: Callable[..., TrainOptions],
) -> None:
    with pytest.raises(UsageError, match="no weights of adaformer are shipped; take --init bicub"):
        options(model="adaformer")
    with pytest.raises(UsageError, match="pp-atd-light has no ratio"):
        options(ratio=0.5)


def test_default_is_the_shipped_weights(options: Callable[..., TrainOptions]) -> None:
    started, shipped = starting_network(options()), build("pp-atd-light", 2)
    for name, value in shipped.state_dict().items():
        assert torch.equal(started.state_dict()[name], value)


def test_a_file_of_ones_own(options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in build("atd-light", 2).state_dict().items()}
    torch.save({"params": state}, tmp_path / "w.pth")
    started = starting_network(options(init=str(tmp_path / "w.pth"), model="atd-light"))
    assert torch.equal(started.norm.weight, state["norm.weight"])


@pytest.mark.parametrize("scale", [3, 4])
def test_another_scale_gives_all_but_the_last_convolution(
    options: Callable[..., TrainOptions], tmp_path: Path, pair: tuple, scale: int
) -> None:
    """The interpolated last convolution starts near x2's picture quality, not from noise."""
    state = build("pp-atd-light", 2).state_dict()
    torch.save(state, tmp_path / "x2.pth")
    model = starting_network(options(init=str(tmp_path / "x2.pth"), scale=scale))
    for name, value in model.state_dict().items():
        assert name.startswith("upsample.0") or torch.equal(value, state[name])
    low, high = degrade(pair[1], scale)
    assert psnr_y(enlarge(model, low), high, scale) > psnr_y(imresize(low, scale), high, scale) - 1


def test_the_last_convolution_of_the_same_scale_stays() -> None:
    state = build("pp-atd-light", 2).state_dict()
    for name, value in rescale_last(state, 2, 2, "upsample.0").items():
        torch.testing.assert_close(value, state[name])


def test_a_picture_of_one_colour_keeps_it_at_another_scale() -> None:
    """Phases that agree at x2 agree at x4: each set of weights in the mix adds up to 1."""
    rows = torch.randn(3, 1, 48, 3, 3).expand(3, 4, 48, 3, 3)
    state = {"upsample.0.weight": rows.reshape(12, 48, 3, 3), "upsample.0.bias": torch.ones(12)}
    made = rescale_last(state, 2, 4, "upsample.0")
    expected = rows[:, :1].expand(3, 16, 48, 3, 3).reshape(48, 48, 3, 3)
    torch.testing.assert_close(made["upsample.0.weight"], expected)
    torch.testing.assert_close(made["upsample.0.bias"], torch.ones(48))


def test_what_is_no_start(options: Callable[..., TrainOptions], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="default, bicubic or a checkpoint"):
        starting_network(options(init="nowhere.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        starting_network(options(init=str(tmp_path / "text.pth")))
