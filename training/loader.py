"""Batches made ahead in the background, and how long training waited for them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ppsr.runtime.backend import Closing

from .patches import Batch, Patches

AHEAD = 3
"""Batches under way while one is trained on."""


class Loader(Closing):
    """``take(step)`` in ascending order, from any step on. A context manager."""

    def __init__(
        self, patches: Patches, seed: int, size: int, draws: int, device: torch.device
    ) -> None:
        self._patches, self._seed, self._size, self._draws = patches, seed, size, draws
        self._device = device
        self._pool = ThreadPoolExecutor(1)
        self._coming: dict[int, Future[Batch]] = {}
        self.waited = 0.0
        """Seconds that ``take`` stood still, in all."""

    def take(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of ``step``: low resolution B 3 P P, ground truth B 3 S*P S*P.

        float32 in [0, 1], on the device.
        """
        for ahead in range(step, step + 1 + AHEAD):
            if ahead not in self._coming:
                self._coming[ahead] = self._pool.submit(
                    self._patches.batch, self._seed, ahead, self._size, self._draws
                )
        start = time.perf_counter()
        low, high = self._coming.pop(step).result()
        self.waited += time.perf_counter() - start
        return self._tensor(low), self._tensor(high)

    def _tensor(self, rgb: object) -> Tensor:
        levels = torch.as_tensor(rgb).to(self._device, non_blocking=True)
        return levels.permute(0, 3, 1, 2).contiguous().float() / 255

    def close(self) -> None:
        """Stop making batches."""
        self._pool.shutdown(cancel_futures=True)
