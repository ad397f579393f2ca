"""AdaFormer's layout of tokens: window by window, from the first block to the last."""

from __future__ import annotations

import math

from torch import Tensor


def cut(image: Tensor, window: int) -> Tensor:
    """N C H W -> N W L C: W windows of L tokens, both in raster order.

    H and W are multiples of ``window``.
    """
    batch, channels, height, width = image.shape
    rows, columns = height // window, width // window
    tiles = image.reshape(batch, channels, rows, window, columns, window)
    tiles = tiles.permute(0, 2, 4, 3, 5, 1)
    return tiles.reshape(batch, rows * columns, window * window, channels)


def join(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """N W L C -> N C H W, the inverse of ``cut``. size: H and W."""
    batch, _, length, channels = tokens.shape
    window = math.isqrt(length)
    shape = (batch, size[0] // window, size[1] // window, window, window, channels)
    return tokens.reshape(shape).permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, *size)
