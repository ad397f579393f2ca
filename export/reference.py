"""The eager network as the reference of a parity check, with its choices in plain sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ppsr.models.category_attention import CategoryAttention
from ppsr.models.network import Network
from ppsr.models.pure_pass import active_tokens, pad_to_grid

from .naming import CHOOSE

Choices = Mapping[str, npt.NDArray[Any]]
"""By module: what it chose. Category attention: int64 n, the category of each active token, in
raster order; a ``choose``: bool, place by place, or int64, the list of what is chosen."""


class Reference:
    """A network that remembers its runs: several graphs are compared on the same pictures."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._runs: dict[tuple[Any, ...], EagerRun] = {}

    def run(self, rgb: npt.NDArray[np.uint8], imposed: Choices | None = None) -> EagerRun:
        """Run uint8 H W 3; ``imposed`` choices take the place of the network's own."""
        given = None if imposed is None else tuple(one.tobytes() for one in imposed.values())
        key = (rgb.shape, rgb.tobytes(), given)
        if key not in self._runs:
            self._runs[key] = _eager(self.network, rgb, self.active(rgb), imposed)
        return self._runs[key]

    def active(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Return the tokens that take part in category attention, as the host routes them."""
        padded, settings = pad_to_grid(rgb), self.network.config.pure_pass
        pure = settings.mask(padded) if settings else np.zeros(padded.shape[:2], bool)
        return active_tokens(pure)


@dataclass
class EagerRun:
    """The eager network on one picture."""

    active: npt.NDArray[np.int64]
    """Raster indices of the tokens in category attention."""
    output: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0))
    """1 3 S*H S*W."""
    choices: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """What the network itself chooses, in the order it does, on what it has seen so far."""
    ties: int = 0
    """Imposed choices that are not the network's on the same features."""
    gap: float = 0.0
    """The widest of these: how far the score lies from the one it is tied with, relative to it."""

    def judge(self, gaps: Tensor) -> None:
        """Take in how far imposed choices are from a tie, those that are not the network's own."""
        self.ties += gaps.numel()
        self.gap = max([self.gap, *gaps.flatten().tolist()])


def changed(ours: Choices, theirs: Choices) -> int:
    """Count what one run chose and the other, of the same picture and routing, did not."""
    return sum(
        len(np.setdiff1d(chosen, theirs[path]))
        if _is_choose(path) and chosen.dtype != np.bool_
        else int((chosen != theirs[path]).sum())
        for path, chosen in ours.items()
    )


@torch.no_grad()
def _eager(
    network: Network,
    rgb: npt.NDArray[np.uint8],
    active: npt.NDArray[np.int64],
    imposed: Choices | None,
) -> EagerRun:
    """Run the network; ``imposed`` choices, by module, take the place of its own."""
    run = EagerRun(active)
    hooks = []
    for path, module in network.named_modules():
        given = None
        if imposed is not None and path in imposed:
            given = torch.from_numpy(imposed[path])
        if isinstance(module, CategoryAttention):
            hooks.append(module.register_forward_pre_hook(_on_categories(run, path, given)))
        elif _is_choose(path):
            hooks.append(module.register_forward_hook(_on_choice(run, path, given)))
    try:
        image = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0)
        run.output = network(image.to(next(network.parameters()).dtype) / 255).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return run


def _on_categories(run: EagerRun, path: str, given: Tensor | None) -> Callable[..., Any]:
    """Impose categories by a similarity that leaves no doubt."""
    index = torch.from_numpy(run.active)

    def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        qkv, similarity, *rest = inputs
        found = similarity[0].index_select(0, index)
        own = found.argmax(-1)
        run.choices[path] = own.numpy()
        if given is None or not len(index):
            return inputs
        category = given.unsqueeze(1)
        gap = 1 - (found.gather(1, category) / found.amax(1, keepdim=True)).squeeze(1)
        run.judge(gap[given != own])
        one_hot = torch.zeros_like(similarity)
        one_hot[0, index] = torch.zeros_like(found).scatter(1, category, 1)
        return (qkv, one_hot, *rest)

    return watch


def _on_choice(run: EagerRun, path: str, given: Tensor | None) -> Callable[..., Any]:
    """Impose a choice by its outcome: one of the two kinds that ``Network`` names."""

    def watch(_module: nn.Module, inputs: tuple[Any, ...], own: Tensor) -> Tensor:
        run.choices[path] = own.flatten().numpy()
        if given is None:
            return own
        score, outcome = inputs[0], given.reshape(own.shape)
        if own.dtype == torch.bool:
            limit, apart = inputs[1], outcome != own
        else:
            limit = score.gather(1, own).amin()  # the last one in
            mine, theirs = (
                torch.zeros_like(score, dtype=torch.bool).scatter(1, which, True)
                for which in (own, outcome)
            )
            apart = mine != theirs
        run.judge((score[apart] / limit - 1).abs())
        return outcome

    return watch


def _is_choose(path: str) -> bool:
    return path.rpartition(".")[2] == CHOOSE
