"""Softmax attention, and attention within shifted windows (SW-MSA).

Masks cost no pass over the logits here: they ride on the inner product as extra channels of query
and key, so that q'.k' = q.k + mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAR = -100.0
"""Added to the logits of pairs that a shifted window joins across the picture's border."""


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T + bias) v over ... L D; ``query`` carries the scale."""
    logits = query @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1) @ value


def border_codes(height: int, width: int, window: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return per-token query and key channels whose product is ``FAR`` for each border between.

    After the cyclic shift by half a window, the last window row and column hold tokens from both
    ends of the picture. With r = 1 behind the border and 0 before it,
    ``FAR (r (1 - r') + (1 - r) r')`` is 0 for two tokens of one side and ``FAR`` otherwise;
    two channels for rows and two for columns. Twice H W 4.
    """

    def codes(size: int) -> tuple[Tensor, Tensor]:
        side = (torch.arange(size, device=like.device) >= size - window // 2).to(like.dtype)
        return torch.stack((FAR * side, FAR - FAR * side), 1), torch.stack((1 - side, side), 1)

    (query_row, key_row), (query_column, key_column) = codes(height), codes(width)

    def spread(row: Tensor, column: Tensor) -> Tensor:
        return torch.cat(
            (row.unsqueeze(1).expand(-1, width, -1), column.unsqueeze(0).expand(height, -1, -1)), 2
        )

    return spread(query_row, query_column), spread(key_row, key_column)


def to_windows(tokens: Tensor, window: int) -> Tensor:
    """Cut a map into windows. B H W C -> B H/w W/w w w C."""
    batch, height, width, channels = tokens.shape
    tiles = tokens.reshape(batch, height // window, window, width // window, window, channels)
    return tiles.transpose(2, 3)


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
        offset = here.unsqueeze(1) - here + w - 1  # w w: row of the table for each pair
        table = self.relative_position_bias_table.reshape(2 * w - 1, 2 * w - 1, self.heads)
        pairs = table[offset][:, :, offset]  # y y' x x' heads
        return pairs.permute(4, 0, 2, 1, 3).reshape(self.heads, w * w, w * w)

    def forward(self, qkv: Tensor, codes: tuple[Tensor, Tensor] | None) -> Tensor:
        """qkv: B H W 3C. ``codes`` (border_codes) shifts the windows by half. -> B H*W C."""
        batch, height, width, channels = qkv.shape
        w, depth = self.window, channels // (3 * self.heads)
        if codes is not None:
            qkv = qkv.roll((-(w // 2), -(w // 2)), (1, 2))
        tiles = qkv.reshape(batch, height // w, w, width // w, w, 3, self.heads, depth)
        q, k, v = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.heads, w * w, depth)
        q = q * self.scale
        if codes is not None:
            query, key = (
                to_windows(code.unsqueeze(0), w)
                .reshape(-1, 1, w * w, code.shape[-1])
                .repeat(batch, self.heads, 1, 1)
                for code in codes
            )
            q, k = torch.cat((q, query), -1), torch.cat((k, key), -1)
        y = attend(q, k, v, self.position_bias())
        y = y.reshape(batch, height // w, width // w, self.heads, w, w, depth)
        y = y.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, -1)
        if codes is not None:
            y = y.roll((w // 2, w // 2), (1, 2))
        out: Tensor = self.proj(y.flatten(1, 2))
        return out
