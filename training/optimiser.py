"""The optimiser: Muon for the matrices, AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .options import TrainOptions


class Optimiser:
    """AdamW alone, or with Muon, behind one interface.

    Muon (Jordan et al. 2024) makes the update of a matrix orthogonal by five Newton-Schulz steps,
    so that no direction of it is left behind; its rate is scaled to the size of AdamW's updates
    (Liu et al. 2025), so that one ``rate`` serves both. The dictionaries, the tables of position
    biases, vectors and convolutions are AdamW's.
    """

    def __init__(self, model: nn.Module, options: TrainOptions) -> None:
        settings: dict[str, Any] = {"lr": options.rate, "weight_decay": options.weight_decay}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in model.modules():
            for name, value in module.named_parameters(recurse=False):
                is_matrix = isinstance(module, nn.Linear) and name == "weight"
                (matrices if is_matrix and options.optimiser == "muon" else others).append(value)
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, betas=options.betas, **settings)
        ]
        if matrices:
            self._parts.append(
                torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)
            )

    def step(self, rate: float) -> None:
        """Update the network from its gradients, and drop them."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Take over what ``state_dict`` gave, for the same options."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)
