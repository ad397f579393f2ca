"""How good the averaged weights are, on pictures that are never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppsr.models.errors import UsageError
from ppsr.models.factory import build
from ppsr.models.network import Network
from ppsr.runtime.dataset import read_ground_truth
from ppsr.runtime.imresize import degrade
from ppsr.runtime.metrics import psnr_y

from .options import TrainOptions
from .patches import Rgb


class Validation:
    """The middles of pictures, and a network to try weights in."""

    def __init__(self, paths: Sequence[Path], options: TrainOptions, device: torch.device) -> None:
        """Decode the pictures. Raises PictureError, or UsageError for one that is too small."""
        self._scale, self._device = options.scale, device
        network = build(options.model, options.scale, weights=None, ratio=options.ratio)
        self._network: Network = network.to(device)
        self._pairs = []
        for path in paths:
            low, high = degrade(read_ground_truth(path), options.scale)
            if min(low.shape[:2]) < 8:
                raise UsageError(
                    f"expected pictures of at least {8 * options.scale} pixels a side to validate "
                    f"on, got {high.shape[0]} x {high.shape[1]}: {path}"
                )
            self._pairs.append(_middle(low, high, options.validation_side))

    def psnr_y(self, weights: Mapping[str, Tensor]) -> float:
        """Return the mean PSNR of the rounded luma in dB, computed in float32."""
        self._network.load_state_dict(weights)
        values = [self._psnr_y(low, high) for low, high in self._pairs]
        return float(np.mean(values))

    @torch.inference_mode()
    def _psnr_y(self, low: Rgb, high: Rgb) -> float:
        image = torch.as_tensor(low, device=self._device).permute(2, 0, 1)[None].float() / 255
        out = self._network(image)[0].clamp(0, 1).mul(255).round().byte()
        return psnr_y(out.permute(1, 2, 0).cpu().numpy(), high, border=self._scale)


def _middle(low: Rgb, high: Rgb, side: int) -> tuple[Rgb, Rgb]:
    scale = high.shape[0] // low.shape[0]
    (top, height), (left, width) = (
        ((length - min(length, side)) // 2, min(length, side)) for length in low.shape[:2]
    )
    return (
        np.ascontiguousarray(low[top : top + height, left : left + width]),
        np.ascontiguousarray(
            high[scale * top : scale * (top + height), scale * left : scale * (left + width)]
        ),
    )
