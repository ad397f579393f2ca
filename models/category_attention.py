"""AC-MSA: tokens of one category attend to each other, wherever in the picture they are.

With Pure-Pass only active tokens take part (eq. 11 to 18): they are gathered, sorted by category,
cut into groups of 128, attended, projected and scattered back; pure tokens keep the output of the
window attention instead (information-preserving compensation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .attention import with_codes
from .category import Groups, category_order, category_rank


class GroupSoftmax(nn.Module):
    """softmax(e^s q k^T) within groups. It owns no parameters; precision islands name it."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.query_scale = 1.0
        """What the queries hold already, once ``ppsr.export.fold`` put it into the weights."""

    def forward(self, query: Tensor, key: Tensor, logit_scale: Tensor, groups: Groups) -> Tensor:
        """query, key: G heads L D; logit_scale: 1 1 -> G heads L L."""
        factor = logit_scale.clamp(max=math.log(100)).exp()
        query = query * (factor / self.query_scale)
        if groups.query is not None and groups.key is not None:
            query = with_codes(query, groups.query, self.depth)
            key = with_codes(key, groups.key, self.depth)
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
        self.softmax = GroupSoftmax(channels // heads)
        self.proj = nn.Linear(channels, channels)

    def forward(self, qkv: Tensor, similarity: Tensor, window: Tensor, groups: Groups) -> Tensor:
        """qkv: B T 3C, similarity: B T K, window: B T C (SW-MSA's output) -> B T C."""
        rest = window if self.compensation else torch.zeros_like(window)
        if groups.source is not None or (groups.active is None and qkv.shape[0] == 1):
            return self._one(qkv, similarity, rest, groups)
        return self._batch(qkv, similarity, rest, groups)

    def _one(self, qkv: Tensor, similarity: Tensor, rest: Tensor, groups: Groups) -> Tensor:
        """One picture, its active tokens gathered. 1 T 3C, 1 T K, 1 T C -> 1 T C."""
        category = similarity.argmax(-1, keepdim=True).int().reshape(-1, 1)
        if groups.source is not None:
            category = category.index_select(0, groups.source)
        rank, order = self._sort(category, groups)
        if groups.kept is not None:
            rank = self._keep(rank, groups.kept)
        y = self._attend(qkv.index_select(1, order.index_select(0, groups.place[0])), groups)
        y = self.proj(y.index_select(0, rank))
        if groups.active is not None:
            y = rest.squeeze(0).index_copy(0, groups.active, y)
        return y.unsqueeze(0)

    def _keep(self, rank: Tensor, kept: Tensor) -> Tensor:
        """Leave the spare out. n + 1 -> n."""
        return rank.index_select(0, kept)  # A slice costs an engine 26 layers.

    def _batch(self, qkv: Tensor, similarity: Tensor, rest: Tensor, groups: Groups) -> Tensor:
        """Any number of pictures, shapes static. B T 3C, B T K, B T C -> B T C."""
        batch, tokens, channels = rest.shape
        rank, order = self._sort(similarity.argmax(-1, keepdim=True).int(), groups)
        slots = groups.place.shape[1]
        first = torch.arange(batch, device=qkv.device, dtype=torch.int32).unsqueeze(1)
        index = order.gather(1, groups.place.long().expand(batch, -1)) + first * tokens
        y = self._attend(
            qkv.reshape(1, batch * tokens, -1).index_select(1, index.flatten()), groups
        )
        y = y.index_select(0, (rank + first * slots).flatten())
        y = self.proj(y.reshape(batch, tokens, channels))
        return y if groups.active is None else torch.where(groups.active.unsqueeze(-1), y, rest)

    def _sort(self, category: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
        """Eq. 14: the sorted position of each token, and the sorted tokens. ... N 1 -> int32 ... N.

        Tokens that do not take part come last.
        """
        categories = self.categories
        if groups.floor is not None:
            category = torch.maximum(category, groups.floor)
            categories += groups.source is None
        rank = category_rank(category, categories)
        return rank, category_order(rank, groups.source)

    def _attend(self, places: Tensor, groups: Groups) -> Tensor:
        """Eq. 15, on the qkv of every place of every group. 1 S 3C -> S C."""
        depth = places.shape[-1] // (3 * self.heads)
        q, k, v = places.reshape(-1, self.group, 3, self.heads, depth).permute(2, 0, 3, 1, 4)
        y: Tensor = self.softmax(q, k, self.logit_scale, groups) @ v  # G heads 128 depth
        return y.transpose(1, 2).reshape(-1, self.heads * depth)
