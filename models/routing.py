"""The Pure-Pass mask in torch: the arithmetic of ``pure_pass``, traceable, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import PurePass
from .pure_pass import score_table


class PurityMask(nn.Module):
    """Pure-Pass equations 2 to 7. Bit-equal to ``pure_pass.pure_pixels``."""

    offset: Tensor
    weight: Tensor

    def __init__(self, settings: PurePass) -> None:
        super().__init__()
        self.window, self.shift = settings.window, settings.shift
        offset, weight = score_table(settings.centre_array)
        # Integers: a cast of the network to another precision must leave them alone.
        self.register_buffer("offset", torch.tensor(offset), persistent=False)
        self.register_buffer("weight", torch.tensor(weight), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """image: N 3 H W in [0, 1], H and W multiples of 16 -> bool N H W, True = pure.

        Values off the 8-bit grid are rounded to it first.
        """
        labels = self.labels(image)
        pure = self._pure_windows(labels)
        if self.shift:
            rolled = self._pure_windows(labels.roll((self.shift, self.shift), (1, 2)))
            pure = pure | rolled.roll((-self.shift, -self.shift), (1, 2))
        return pure

    def labels(self, image: Tensor) -> Tensor:
        """Equation 2, ties to the lowest index. N 3 H W -> float32 N H W holding integers.

        float32 is exact: every partial sum is an integer below 2^24, in TF32 as well.
        """
        levels = (image.float() * 255).round().clamp(0, 255)
        offset, weight = self.offset.float(), self.weight.float()
        score = offset.reshape(-1, 1, 1) - F.conv2d(levels, weight[:, :, None, None])
        nearest = score.amin(1, keepdim=True)
        count = score.shape[1]
        index = torch.arange(count, device=score.device, dtype=torch.float32).reshape(-1, 1, 1)
        return torch.where(score == nearest, index, float(count)).amin(1)

    def _pure_windows(self, labels: Tensor) -> Tensor:
        """Equations 3 to 5. N H W -> bool N H W."""
        batch, height, width = labels.shape
        w = self.window
        tiles = labels.reshape(batch, height // w, w, width // w, w)
        pure = tiles.amax((2, 4), keepdim=True) == tiles.amin((2, 4), keepdim=True)
        return pure.expand_as(tiles).reshape(batch, height, width)
