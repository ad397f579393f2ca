"""AC-MSA: tokens of one category attend to each other, wherever in the picture they are.

With Pure-Pass only active tokens take part (eq. 11 to 18): they are gathered, sorted by category,
cut into groups of 128, attended, projected and scattered back; pure tokens keep the output of the
window attention instead (information-preserving compensation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .category import Groups, category_order, category_rank


class GroupSoftmax(nn.Module):
    """softmax(e^s q k^T) within groups. It owns no parameters; precision islands name it."""

    def forward(self, query: Tensor, key: Tensor, logit_scale: Tensor, groups: Groups) -> Tensor:
        """query, key: G heads L D; logit_scale: 1 1 -> G heads L L."""
        query = query * logit_scale.clamp(max=math.log(100)).exp()
        if groups.query is not None and groups.key is not None:
            heads = (-1, query.shape[1], -1, -1)
            query = torch.cat((query, groups.query.to(query.dtype).expand(heads)), -1)
            key = torch.cat((key, groups.key.to(key.dtype).expand(heads)), -1)
        return (query @ key.transpose(-2, -1)).softmax(-1)


class CategoryAttention(nn.Module):
    """AC-MSA on all tokens or on the active ones (official AC_MSA; Pure-Pass eq. 12 to 18)."""

    def __init__(
        self, channels: int, heads: int, group: int, categories: int, compensation: bool
    ) -> None:
        super().__init__()
        self.heads, self.group, self.categories = heads, group, categories
        self.compensation = compensation
        self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10)))
        self.softmax = GroupSoftmax()
        self.proj = nn.Linear(channels, channels)

    def forward(self, qkv: Tensor, similarity: Tensor, window: Tensor, groups: Groups) -> Tensor:
        """qkv: B T 3C, similarity: B T K, window: B T C (SW-MSA's output) -> B T C."""
        active = groups.active
        if active is None:
            order, rank = _sorted(similarity.argmax(-1), self.categories)
            return self._attend(qkv, order, rank, groups)
        rest = window if self.compensation else torch.zeros_like(window)
        if groups.source is None or groups.spare is None or groups.kept is None:
            category = similarity.argmax(-1).masked_fill(~active, self.categories)
            order, rank = _sorted(category, self.categories + 1)
            y = self._attend(qkv, order, rank, groups)
            return torch.where(active.unsqueeze(-1), y, rest)
        category = similarity.index_select(1, groups.source).argmax(-1)
        category = category.masked_fill(groups.spare, self.categories)
        order, rank = _sorted(category, self.categories + 1)
        order = groups.source.index_select(0, order[0]).unsqueeze(0)
        y = self._attend(qkv, order, rank.index_select(1, groups.kept), groups)
        return rest[0].index_copy(0, active, y[0]).unsqueeze(0)

    def _attend(self, qkv: Tensor, order: Tensor, rank: Tensor, groups: Groups) -> Tensor:
        """Eq. 13 to 16. qkv: B T 3C; order: B M, the tokens as sorted -> B N C.

        rank: B N, the sorted position whose output each of N tokens takes.
        """
        batch, slots = qkv.shape[0], groups.place.shape[1]
        depth = qkv.shape[-1] // (3 * self.heads)
        grouped = _rows(qkv, order.gather(1, groups.place.expand(batch, -1)))
        grouped = grouped.reshape(-1, self.group, 3, self.heads, depth)
        q, k, v = grouped.permute(2, 0, 3, 1, 4)  # B*G heads 128 depth
        y = self.softmax(q, k, self.logit_scale, groups) @ v
        out: Tensor = self.proj(_rows(y.transpose(1, 2).reshape(batch, slots, -1), rank))
        return out


def _sorted(category: Tensor, categories: int) -> tuple[Tensor, Tensor]:
    """Return the order of tokens by category, and its inverse. int64 B N, twice."""
    rank = category_rank(category, categories)
    return category_order(rank), rank


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows per sample. B T C, int64 B N -> B N C."""
    batch, tokens, channels = x.shape
    if batch > 1:
        index = index + torch.arange(batch, device=x.device).unsqueeze(1) * tokens
    return x.reshape(-1, channels).index_select(0, index.reshape(-1)).reshape(batch, -1, channels)
