"""The eager network as the reference of a parity check, with its categories in plain sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ppsr.models.atd import ATD
from ppsr.models.category_attention import CategoryAttention
from ppsr.models.pure_pass import active_tokens, pad_to_grid

Categories = Sequence[npt.NDArray[np.int64]]
"""By layer: the category of each active token, in raster order."""


class Reference:
    """A network that remembers its runs: several graphs are compared on the same pictures."""

    def __init__(self, network: ATD) -> None:
        self.network = network
        self._runs: dict[tuple[Any, ...], EagerRun] = {}

    def run(self, rgb: npt.NDArray[np.uint8], imposed: Categories | None = None) -> EagerRun:
        """Run uint8 H W 3; ``imposed`` categories take the place of the network's own."""
        given = None if imposed is None else tuple(one.tobytes() for one in imposed)
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

    output: npt.NDArray[Any]
    """1 3 S*H S*W."""
    categories: list[npt.NDArray[np.int64]]
    """By layer: the category of each active token that its similarity decides."""
    active: npt.NDArray[np.int64]
    """Raster indices of the tokens in category attention."""
    ties: int = 0
    """Imposed categories that are not the network's choice on the same features."""
    gap: float = 0.0
    """The widest of these: how far the similarity lies below the winner's, relative to it."""


@torch.no_grad()
def _eager(
    network: ATD,
    rgb: npt.NDArray[np.uint8],
    active: npt.NDArray[np.int64],
    imposed: Categories | None,
) -> EagerRun:
    """Run the network; ``imposed`` categories, by layer, take the place of its own."""
    index = torch.from_numpy(active)
    run = EagerRun(np.empty(0), [], active)

    def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        qkv, similarity, *rest = inputs
        found = similarity[0].index_select(0, index)
        own = found.argmax(-1)
        layer = len(run.categories)
        run.categories.append(own.numpy())
        if imposed is None or not len(index):
            return inputs
        given = torch.from_numpy(imposed[layer]).unsqueeze(1)
        gap = 1 - (found.gather(1, given) / found.amax(1, keepdim=True))
        run.ties += int((given.squeeze(1) != own).sum())
        run.gap = max(run.gap, float(gap.max()))
        one_hot = torch.zeros_like(similarity)
        one_hot[0, index] = torch.zeros_like(found).scatter(1, given, 1)
        return (qkv, one_hot, *rest)

    hooks = [
        module.register_forward_pre_hook(watch)
        for module in network.modules()
        if isinstance(module, CategoryAttention)
    ]
    try:
        image = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0)
        run.output = network(image.to(network.conv_first.weight.dtype) / 255).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return run
