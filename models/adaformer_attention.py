"""AdaFormer's attention: within windows and, through prototypes, across the whole picture.

AdaFormer (AAAI 2024) eq. 8 to 13 and 20 to 24; official LightViTAttention. Two forms give one
result: dense, where every token attends and what a halted one gets is replaced, with no shape that
depends on the picture's content; and sparse, where what is kept is gathered, attends and is put
back. The sum of both branches is not projected, and what a halted token gets from a branch is its
own (normalised) input. The global branch is global: the official evaluation cuts large pictures
into up to 64 chunks of kept tokens that do not see each other; equations and training do not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import plain_windows
from .halting import Kept

HALTED = -1e4
"""Logit of a halted token: nothing beside any kept one, and finite where no token is kept."""


class Aggregation(nn.Module):
    """softmax(q k^T) v over the tokens of a picture (eq. 11). It owns no parameters.

    Its weights are near 1/T, FP16 subnormals on large pictures: precision islands name it.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, kept: Tensor | None) -> Tensor:
        """query: 1 heads P D; key, value: N heads T D; kept: bool N T or None -> N heads P D."""
        logits = query @ key.transpose(-2, -1)
        if kept is not None:
            logits = logits.masked_fill(~kept[:, None, None], HALTED)
        return logits.softmax(-1) @ value


class TokenAttention(nn.Module):
    """Local plus global branch, with tokens laid out by windows (official LightViTAttention)."""

    pairs: Tensor

    def __init__(self, channels: int, heads: int, window: int, prototypes: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, channels // heads
        self.scale = self.depth**-0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.qkv_local = nn.Linear(channels, 3 * channels)
        self.kv_global = nn.Linear(channels, 2 * channels)
        self.norm1 = nn.LayerNorm(channels)
        self.prototype = nn.Parameter(torch.empty(1, prototypes, channels))
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.prototype, std=0.02)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.aggregate = Aggregation()
        pairs = plain_windows(window, window, window, torch.empty(0)).pairs
        self.register_buffer("pairs", pairs, persistent=False)

    def forward(self, u: Tensor, kept: Kept | None, sparse: bool) -> Tensor:
        """u: N W L C, normalised; N = 1 if ``sparse``; kept: None for everything -> N W L C."""
        if kept is None:
            return self.local(u.flatten(0, 1)).reshape(u.shape) + self.across(
                u.flatten(1, 2), None
            ).reshape(u.shape)
        return self._sparse(u, kept) if sparse else self._dense(u, kept)

    def _dense(self, u: Tensor, kept: Kept) -> Tensor:
        local = self.local(u.flatten(0, 1)).reshape(u.shape)
        across = self.across(u.flatten(1, 2), kept.tokens.flatten(1)).reshape(u.shape)
        local = torch.where(kept.windows[..., None, None], local, u)
        return local + torch.where(kept.tokens[..., None], across, u)

    def _sparse(self, u: Tensor, kept: Kept) -> Tensor:
        windows, tokens = u.squeeze(0), u.flatten(0, 2)
        index = kept.windows.flatten().nonzero().squeeze(1)
        local = windows.index_copy(0, index, self.local(windows.index_select(0, index)))
        index = kept.tokens.flatten().nonzero().squeeze(1)
        found = self.across(tokens.index_select(0, index).unsqueeze(0), None)
        across = tokens.index_copy(0, index, found.squeeze(0))
        return local.unsqueeze(0) + across.reshape(u.shape)

    def local(self, windows: Tensor) -> Tensor:
        """Attention within windows, with relative position bias (eq. 8 and 9). M L C -> M L C."""
        number, length, channels = windows.shape
        q, k, v = self._heads(self.qkv_local(windows), 3)
        bias = self.relative_position_bias_table.t().index_select(1, self.pairs)
        bias = bias.reshape(1, self.heads, length, length).to(q.dtype)
        y: Tensor = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        return y.transpose(1, 2).reshape(number, length, channels)

    def across(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """The prototypes gather from the tokens, the tokens read from them (eq. 10 to 13).

        x: N T C; kept: bool N T, the tokens that are gathered from, or None for all -> N T C.
        """
        batch, tokens, channels = x.shape
        q, k, v = self._heads(self.qkv(x), 3)
        seeds = F.linear(
            self.norm1(self.prototype), self.qkv.weight[:channels], self.qkv.bias[:channels]
        )
        (seed,) = self._heads(seeds, 1)
        texture = self.aggregate(seed * self.scale, k, v, kept)
        texture = texture.transpose(1, 2).reshape(batch, seeds.shape[1], channels)
        key, value = self._heads(self.kv_global(texture), 2)
        y: Tensor = ((q * self.scale) @ key.transpose(-2, -1)).softmax(-1) @ value
        return y.transpose(1, 2).reshape(batch, tokens, channels)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """B T parts*C -> so many times B heads T D. No -1 in the shape: T may be 0."""
        shape = (x.shape[0], x.shape[1], parts, self.heads, self.depth)
        return x.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
