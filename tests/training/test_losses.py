"""The losses of networks that have more than L1."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppsr.models.registry import MODELS
from ppsr.training.losses import LEVELS, LOSSES, loss_of, ratio_loss, uncertainty_loss


def network(**config: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(**config), scale=2)


def test_the_ratio_weighs_how_far_the_share_is_from_a_half() -> None:
    """The mean over pictures and layers: 0.75 in the batch below."""
    truth = torch.zeros(2, 3, 4, 4)
    decisions = torch.tensor([[0.5, 1.0], [0.75, 0.75]], requires_grad=True)
    loss = ratio_loss(network(ratio=0.8), truth + 0.1, decisions, truth)
    assert loss.item() == pytest.approx(0.1 + 2 * 0.8 * 0.25**2)
    loss.backward()
    assert decisions.grad is not None
    assert decisions.grad.flatten().tolist() == pytest.approx([0.2] * 4)


@pytest.mark.parametrize("error", [0.25, 1.0, 5.0])
def test_the_best_confidence_is_one_over_the_error_in_levels(error: float) -> None:
    """As the equation's minimum has it; in [0, 1] instead of 0 to 255 it would always be 1."""
    truth = torch.zeros(1, 3, 8, 8)
    values = torch.arange(1, 1001) / 1000
    losses = [
        uncertainty_loss(network(), truth + error / LEVELS, c.expand(1, 1, 1, 4, 4), truth).item()
        for c in values
    ]
    best = values[min(range(1000), key=losses.__getitem__)].item()
    assert best == pytest.approx(min(1, 1 / error), abs=2e-3)


def test_the_uncertainty_loss_is_the_equations() -> None:
    truth, c = torch.zeros(1, 3, 8, 8), torch.full((1, 2, 1, 4, 4), 0.5)
    out = (truth + 2 / LEVELS).requires_grad_()
    loss = uncertainty_loss(network(), out, c, truth)
    assert loss.item() * LEVELS == pytest.approx(2 + 2 * (0.5 * 2 + math.log(2)), rel=1e-5)
    (detached,) = torch.autograd.grad(loss, out)
    (attached,) = torch.autograd.grad(
        uncertainty_loss(network(), out, c, truth, attached=True), out
    )
    assert torch.allclose(attached, 2 * detached)  # 1 + 2 blocks of 0.5


def test_losses_are_of_networks_there_are() -> None:
    assert LOSSES.keys() <= MODELS.keys()
    plain = network(name="atd-light")
    forward, loss = loss_of(plain)
    assert forward is plain
    assert loss(torch.ones(1), torch.zeros(1)) == 1
