"""The exponential moving average of the weights: what is validated and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """A shadow of a network's parameters, float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = dict(model.named_parameters())
        self.weights = {name: value.detach().clone() for name, value in self._live.items()}

    def update(self, step: int) -> None:
        """Move towards the network, faster in the first steps. ``step`` counts from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.weights.values()),
            [value.detach() for value in self._live.values()],
            1 - decay,
        )

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what ``weights`` held."""
        for name, value in self.weights.items():
            value.copy_(weights[name])
