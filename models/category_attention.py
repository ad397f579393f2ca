"""AC-MSA: tokens of one category attend to each other, wherever in the picture they are.

With Pure-Pass only active tokens take part (eq. 11 to 18): they are gathered, sorted by category,
cut into groups of 128, attended, projected and scattered back; pure tokens keep the output of the
window attention instead (information-preserving compensation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .attention import attend
from .category import category_order, category_rank, group_count, group_places

NO_KEY = -1e4
"""Added to the logits of places that hold no token: exp is 0, and float16 can hold it."""


class CategoryAttention(nn.Module):
    """AC-MSA on all tokens or on the active ones (official AC_MSA; Pure-Pass eq. 12 to 18)."""

    def __init__(
        self, channels: int, heads: int, group: int, categories: int, compensation: bool
    ) -> None:
        super().__init__()
        self.heads, self.group, self.categories = heads, group, categories
        self.compensation = compensation
        self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10)))
        self.proj = nn.Linear(channels, channels)

    def forward(
        self, qkv: Tensor, similarity: Tensor, window: Tensor, active: Tensor | None
    ) -> Tensor:
        """qkv: B T 3C, similarity: B T K, window: B T C (SW-MSA's output) -> B T C.

        active: None = every token; int64 n = raster indices of the active tokens (batch 1, any
        n >= 0); bool B T = True where active (any batch, static shapes).
        """
        if active is None:
            return self._attend_groups(qkv, similarity.argmax(-1), self.categories)
        spare = window if self.compensation else torch.zeros_like(window)
        if active.dtype == torch.bool:
            category = similarity.argmax(-1).masked_fill(~active, self.categories)
            count = active.sum(1, keepdim=True)
            y = self._attend_groups(qkv, category, self.categories + 1, count)
            return torch.where(active.unsqueeze(-1), y, spare)
        category = similarity.index_select(1, active).argmax(-1)
        count = torch.full((1, 1), active.shape[0], device=qkv.device)
        y = self._attend_groups(qkv, category, self.categories, count, active)
        return spare.index_copy(1, active, y)

    def _attend_groups(
        self,
        qkv: Tensor,
        category: Tensor,
        categories: int,
        count: Tensor | None = None,
        active: Tensor | None = None,
    ) -> Tensor:
        """Eq. 12 to 16 over B N categories -> B N C, in the order of ``category``."""
        batch, tokens = category.shape
        rank = category_rank(category, categories)
        order = category_order(rank)
        if active is not None:
            order = active[order]
        slots = self.group * group_count(tokens, self.group)
        everyone = torch.full((1, 1), tokens, device=qkv.device)
        place, is_key = group_places(everyone if count is None else count, slots, self.group)
        # One spare entry, so that there is a row to read when no token is active.
        order = nn.functional.pad(order, (0, 1)).gather(1, place.expand(batch, -1))
        depth = qkv.shape[-1] // (3 * self.heads)
        grouped = _rows(qkv, order).reshape(-1, self.group, 3, self.heads, depth)
        q, k, v = grouped.permute(2, 0, 3, 1, 4)
        q = q * self.logit_scale.clamp(max=math.log(100)).exp()
        if count is not None:
            no_key = (~is_key).to(q.dtype).reshape(-1, 1, self.group, 1) * NO_KEY
            k = torch.cat((k, no_key.expand(-1, self.heads, -1, -1)), -1)
            q = torch.cat((q, torch.ones_like(q[..., :1])), -1)
        y = attend(q, k, v).transpose(1, 2).reshape(batch, slots, -1)
        out: Tensor = self.proj(_rows(y, rank))
        return out


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows per sample. B T C, int64 B N -> B N C."""
    batch, tokens, channels = x.shape
    if batch > 1:
        index = index + torch.arange(batch, device=x.device).unsqueeze(1) * tokens
    return x.reshape(-1, channels).index_select(0, index.reshape(-1)).reshape(batch, -1, channels)
