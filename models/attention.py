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
from torch.nn.functional import pad

FAR = -100.0
"""Added to the logits of pairs that a shifted window joins across the picture's border."""


class Windows(NamedTuple):
    """How the tokens of one picture fall into windows."""

    order: Tensor
    """int64 T: the raster index of each token, window by window."""
    rank: Tensor
    """int64 T: the inverse of ``order``."""
    pairs: Tensor
    """int64 L*L: the row of the position bias table of each pair of places of a window."""
    query: Tensor | None = None
    """T/L 1 L 4: channels to append to queries, of windows of L tokens; None: no shift, no mask."""
    key: Tensor | None = None
    """T/L 1 L 4: channels to append to keys."""
    border: Tensor | None = None
    """bool T/L: the windows with tokens from both ends of the picture; the codes of all others come
    to 0."""


def plain_windows(height: int, width: int, window: int, like: Tensor) -> Windows:
    """Cut H W into windows. Both are multiples of ``window``."""
    return _windows(_axis(height, window, 0, like), _axis(width, window, 0, like), width)


def shifted_windows(height: int, width: int, window: int, like: Tensor) -> Windows:
    """Cut H W into windows after a cyclic shift by half a window to the top left.

    The last window row and column then hold tokens from both ends of the picture. With r = 1 for
    tokens that came round and 0 for the others, ``FAR (r (1 - r') + (1 - r) r')`` is 0 for two
    tokens of one side and ``FAR`` otherwise: two channels for rows, two for columns.
    """
    half = window // 2
    rows, columns = _axis(height, window, half, like), _axis(width, window, half, like)
    windows = _windows(rows, columns, width)
    came_round = (rows[:, None, :, None] < half, columns[:, None, :] < half)
    came_round = torch.broadcast_tensors(*came_round)  # type: ignore[no-untyped-call]
    r = torch.stack(came_round, -1).to(like.dtype)  # H/w W/w w w 2
    query, key = (
        codes.reshape(-1, 1, window * window, 4)
        for codes in (torch.cat((FAR * r, FAR - FAR * r), -1), torch.cat((1 - r, r), -1))
    )
    border = r.reshape(-1, window * window * 2).amax(1) > 0
    return windows._replace(query=query, key=key, border=border)


def _axis(size: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Positions along one axis after a cyclic shift, window by window. -> int64 size/w w."""
    place = torch.arange(size, device=like.device)
    return torch.where(place < size - shift, place, place - size).add(shift).reshape(-1, window)


def _windows(rows: Tensor, columns: Tensor, width: int) -> Windows:
    order = (rows[:, None, :, None] * width + columns[:, None, :]).flatten()
    tokens = torch.arange(order.shape[0], device=order.device)
    rank = tokens.scatter(0, order, tokens)  # every place is written
    return Windows(order, rank, _pairs(rows.shape[1], order.device))


def _pairs(window: int, device: torch.device) -> Tensor:
    """Row (dy + w - 1) (2w - 1) + dx + w - 1 of the table for two places that lie dy, dx apart."""
    here = torch.arange(window, device=device)
    apart = here.unsqueeze(1) - here + window - 1  # w w
    rows = apart.reshape(window, 1, window, 1) * (2 * window - 1)
    return (rows + apart.reshape(1, window, 1, window)).flatten()


def with_codes(x: Tensor, codes: Tensor, depth: int) -> Tensor:
    """Let codes ride on queries or keys, so that q'.k' = q.k + (codes of q).(codes of k).

    x: B heads L D with ``depth`` channels of its own and zeros after them (heads widened for an
    engine, ``ppsr.export.fold``), or none; codes: B 1 L c. They go into the zeros where they fit,
    else behind. -> B heads L D, or D + c.
    """
    codes = codes.to(x.dtype)
    room = x.shape[-1] - depth - codes.shape[-1]
    if room >= 0:
        return x + pad(codes, (depth, room))
    return torch.cat((x, codes.expand(-1, x.shape[1], -1, -1)), -1)


def to_tokens(image: Tensor) -> Tensor:
    """N C H W -> N H*W C."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """N H*W C -> N C H W."""
    return tokens.reshape(tokens.shape[0], *size, -1).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """SW-MSA with relative position bias (official WindowAttention, and ATDTransformerLayer)."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.depth = heads, window, channels // heads
        self.scale = self.depth**-0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def position_bias(self, pairs: Tensor) -> Tensor:
        """Spread the table over all pairs of places. int64 L*L -> 1 heads L L."""
        length = self.window**2
        bias = self.relative_position_bias_table.t().index_select(1, pairs)
        return bias.reshape(1, self.heads, length, length)

    def forward(self, qkv: Tensor, windows: Windows) -> Tensor:
        """qkv: B T 3C -> B T C."""
        batch, tokens, channels = qkv.shape
        length, depth = self.window**2, channels // (3 * self.heads)
        tiles = qkv.index_select(1, windows.order).reshape(-1, length, 3, self.heads, depth)
        q, k, v = tiles.permute(2, 0, 3, 1, 4)  # B*T/L heads L depth
        if self.scale != 1:  # 1 once ppsr.export.fold put it into the weights
            q = q * self.scale
        if windows.query is not None and windows.key is not None:
            q = with_codes(q, windows.query.repeat(batch, 1, 1, 1), self.depth)
            k = with_codes(k, windows.key.repeat(batch, 1, 1, 1), self.depth)
        # Autocast would make the logits float32.
        bias = self.position_bias(windows.pairs).to(q.dtype)
        y = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(batch, tokens, -1).index_select(1, windows.rank)
        out: Tensor = self.proj(y)
        return out
