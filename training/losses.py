"""What training makes small: L1, and what some networks add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ppsr.models.config import ModelName
from ppsr.models.network import Network

LEVELS = 255.0
"""The uncertainty loss knows errors on this scale: in [0, 1] every confidence would be 1."""

Loss = Callable[[Network, Tensor, Tensor, Tensor], Tensor]
"""(network, its output, what ``training_forward`` returns beside it, ground truth) -> scalar. Both
pictures are N 3 S*H S*W in [0, 1]."""


def ratio_loss(network: Network, out: Tensor, decisions: Tensor, truth: Tensor) -> Tensor:
    """L1 + 2 ratio (share of windows that attend - 0.5)^2 (CAMixerSR, ``forward_origin``).

    decisions: N L, the share by picture and layer, of which the mean is taken. As published the
    target is always one half: the ratio weighs the term, and evaluation takes that share of the
    windows.
    """
    ratio: float = network.config.ratio
    return F.l1_loss(out, truth) + 2 * ratio * (decisions.float().mean() - 0.5).square()


def uncertainty_loss(
    network: Network, out: Tensor, confidences: Tensor, truth: Tensor, *, attached: bool = False
) -> Tensor:
    """L1 + sum over blocks of mean(C |error| + ln(1 / C)), both on the 0..255 scale, / 255.

    AdaFormer eq. 17; confidences: N L 1 H W in (0, 1), made larger bilinearly; the least loss has C
    = min(1, 1 / |error|). ``attached`` lets the second term reach the output too, as the equation
    has it; without, it trains the estimator alone. The division keeps the loss, and with it the
    largest norm of a gradient, comparable with that of the other networks.
    """
    error = (out - truth).abs()
    blocks = confidences.float().flatten(0, 1)
    c = F.interpolate(blocks, scale_factor=float(network.scale), mode="bilinear")
    c = c.reshape(*confidences.shape[:2], *c.shape[1:])
    seen = (error if attached else error.detach()).unsqueeze(1) * LEVELS
    terms = c * seen - torch.log(c + 1e-8)
    return error.mean() + terms.mean((0, 2, 3, 4)).sum() / LEVELS


LOSSES: Mapping[ModelName, Loss] = {
    "camixer-atd-light": ratio_loss,
    "adaformer": uncertainty_loss,
}
"""Of the networks whose loss is more than L1."""


def loss_of(
    network: Network,
) -> tuple[Callable[[Tensor], Any], Callable[[Any, Tensor], Tensor]]:
    """Return what runs a batch in training, and the loss of (what that returns, ground truth)."""
    loss = LOSSES.get(network.config.name)
    if loss is None:
        return network, lambda out, truth: F.l1_loss(out.float(), truth)
    return network.training_forward, lambda made, truth: loss(
        network, made[0].float(), made[1], truth
    )
