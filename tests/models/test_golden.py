"""The network against the official one, in float64: agreement to 1e-9, or the structure is wrong.

Rounding in another order of summation gives 1e-14 here; one swapped token gives 1e-4 and more.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from ppsr.models import build, category_attention
from ppsr.models.atd import ATD
from ppsr.models.category import category_rank

TOLERANCE = 1e-9
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden"
"""Official outputs for x2, x3 and x4 with random weights, where the workplace has them."""


def worst(network: ATD, golden: Path, picture: int, to_image) -> float:
    """Return the largest difference to the official output of one stored picture."""
    with np.load(golden) as stored:
        image, wanted = to_image(stored[f"image{picture}"]), stored[f"output{picture}"]
    with torch.inference_mode():
        got = network(image)[0].permute(1, 2, 0).numpy()
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max())


@pytest.fixture(scope="module")
def golden(root) -> Path:
    return root / "tests" / "data" / "golden_x2.npz"


@pytest.fixture(scope="module")
def network() -> ATD:
    return build("atd-light", 2, dtype=torch.float64)


def test_shipped_weights_give_the_official_output(network, golden, to_image):
    assert worst(network, golden, 0, to_image) < TOLERANCE


def test_stored_output_is_a_picture(golden):
    with np.load(golden) as stored:
        image, output = stored["image0"] / 255, stored["output0"]
    shrunk = output.reshape(37, 2, 50, 2, 3).mean((1, 3))
    assert np.abs(shrunk - image).mean() < 0.02 < image.std()


@pytest.mark.parametrize(
    "name",
    [
        "conv_first.weight",
        "layers.0.residual_group.td",
        "layers.1.residual_group.layers.3.wqkv.weight",
        "layers.2.residual_group.layers.1.attn_win.relative_position_bias_table",
        "layers.3.residual_group.layers.5.attn_aca.logit_scale",
    ],
)
def test_one_weight_off_by_a_thousandth_is_seen(network, golden, to_image, name):
    spoilt = copy.deepcopy(network)
    weight = spoilt.state_dict()[name].view(-1)
    weight[weight.abs().argmax()] *= 1 + 1e-3
    assert worst(spoilt, golden, 0, to_image) > TOLERANCE


def test_another_order_within_a_category_is_seen(network, golden, to_image, monkeypatch):
    def unstable(category, categories):
        return category_rank(category.flip(-2), categories).flip(-1)

    monkeypatch.setattr(category_attention, "category_rank", unstable)
    assert worst(network, golden, 0, to_image) > TOLERANCE


def test_another_order_of_the_categories_is_seen(network, golden, to_image, monkeypatch):
    def descending(category, categories):
        return category_rank(categories - 1 - category, categories)

    monkeypatch.setattr(category_attention, "category_rank", descending)
    assert worst(network, golden, 0, to_image) > TOLERANCE


@pytest.mark.skipif(not SHARED.is_dir(), reason="no official outputs beside the repository")
@pytest.mark.parametrize("picture", [0, 1, 2])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_official_checkpoint_gives_the_official_output(scale, picture, to_image):
    path = SHARED / f"atd_light_x{scale}.pth"
    network = build("atd-light", scale, path, torch.float64)
    assert worst(network, path.with_suffix(".npz"), picture, to_image) < TOLERANCE


@pytest.mark.parametrize(("scale", "count"), [(2, 753_204), (3, 759_699), (4, 768_792)])
@pytest.mark.parametrize("name", ["atd-light", "pp-atd-light"])
def test_parameters_are_as_many_as_published(name, scale, count):
    network = build(name, scale, weights=None)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert len(network.state_dict()) == 682
