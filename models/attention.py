"""Attention within shifted windows (SW-MSA).

Cutting a picture into windows, shifted or not, is one permutation of its tokens, the same in every
layer: it is worked out once per picture, with the mask of the shifted windows. The mask costs no
pass over the logits; it rides on the inner product as extra channels of query and key, so that
q'.k' = q.k + mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

FAR = -100.0
"""Added to the logits of pairs that a shifted window joins across the picture's border."""


class Windows(NamedTuple):
    """How the tokens of one picture fall into windows."""

    order: Tensor
    """int64 T: the raster index of each token, window by window."""
    rank: Tensor
    """int64 T: the inverse of ``order``."""
    query: Tensor | None = None
    """T/L 1 L 4: channels to append to queries, of windows of L tokens; None: no shift, no mask."""
    key: Tensor | None = None
    """T/L 1 L 4: channels to append to keys."""


def plain_windows(height: int, width: int, window: int, like: Tensor) -> Windows:
    """Cut H W into windows. Both are multiples of ``window``."""
    return _windows(_raster(height, width, like), window)


def shifted_windows(height: int, width: int, window: int, like: Tensor) -> Windows:
    """Cut H W into windows after a cyclic shift by half a window to the top left.

    The last window row and column then hold tokens from both ends of the picture. With r = 1 for
    tokens that came round and 0 for the others, ``FAR (r (1 - r') + (1 - r) r')`` is 0 for two
    tokens of one side and ``FAR`` otherwise: two channels for rows, two for columns.
    """
    half = window // 2
    windows = _windows(_raster(height, width, like).roll((-half, -half), (0, 1)), window)
    row = torch.arange(height, device=like.device)
    column = torch.arange(width, device=like.device)
    came_round_row = (row >= height - half).to(like.dtype).unsqueeze(1).expand(-1, width)
    came_round_column = (column >= width - half).to(like.dtype).expand(height, -1)
    r = torch.stack((came_round_row, came_round_column), -1)  # H W 2
    query, key = (
        _tiles(codes, window).reshape(-1, 1, window * window, 4)
        for codes in (torch.cat((FAR * r, FAR - FAR * r), -1), torch.cat((1 - r, r), -1))
    )
    return Windows(windows.order, windows.rank, query, key)


def _raster(height: int, width: int, like: Tensor) -> Tensor:
    return torch.arange(height * width, device=like.device).reshape(height, width)


def _windows(raster: Tensor, window: int) -> Windows:
    order = _tiles(raster.unsqueeze(-1), window).flatten()
    tokens = torch.arange(order.shape[0], device=order.device)
    return Windows(order, torch.zeros_like(order).scatter(0, order, tokens))


def _tiles(tokens: Tensor, window: int) -> Tensor:
    """H W C -> H/w W/w w w C."""
    height, width, channels = tokens.shape
    rows, columns = height // window, width // window
    return tokens.reshape(rows, window, columns, window, channels).transpose(1, 2)


class WindowAttention(nn.Module):
    """SW-MSA with relative position bias (official WindowAttention, and ATDTransformerLayer)."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def position_bias(self) -> Tensor:
        """Spread the table over all pairs: entry (dy + w - 1, dx + w - 1). -> heads w*w w*w."""
        w = self.window
        here = torch.arange(w, device=self.relative_position_bias_table.device)
        offset = (here.unsqueeze(1) - here + w - 1).flatten()  # w*w: the table's row of each pair
        table = self.relative_position_bias_table.reshape(2 * w - 1, 2 * w - 1, self.heads)
        pairs = table.index_select(0, offset).index_select(1, offset)  # y*y' x*x' heads
        pairs = pairs.reshape(w, w, w, w, self.heads)
        return pairs.permute(4, 0, 2, 1, 3).reshape(self.heads, w * w, w * w)

    def forward(self, qkv: Tensor, windows: Windows) -> Tensor:
        """qkv: B T 3C -> B T C."""
        batch, tokens, channels = qkv.shape
        length, depth = self.window**2, channels // (3 * self.heads)
        tiles = qkv.index_select(1, windows.order).reshape(-1, length, 3, self.heads, depth)
        q, k, v = tiles.permute(2, 0, 3, 1, 4)  # B*T/L heads L depth
        q = q * self.scale
        if windows.query is not None and windows.key is not None:
            q = torch.cat((q, windows.query.to(q.dtype).repeat(batch, self.heads, 1, 1)), -1)
            k = torch.cat((k, windows.key.to(k.dtype).repeat(batch, self.heads, 1, 1)), -1)
        bias = self.position_bias().to(q.dtype)  # autocast would make the logits float32
        y = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(batch, tokens, -1).index_select(1, windows.rank)
        out: Tensor = self.proj(y)
        return out
