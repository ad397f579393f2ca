"""AC-MSA: tokens of one category attend to each other, wherever in the picture they are.

With Pure-Pass only active tokens take part (eq. 11 to 18): they are gathered, sorted by category,
cut into groups of 128, attended, projected and scattered back; pure tokens keep the output of the
window attention instead (information-preserving compensation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

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
            order, rank = _sorted(similarity.argmax(-1), self.categories)
            return self._attend_groups(qkv, order, rank)
        rest = window if self.compensation else torch.zeros_like(window)
        if active.dtype == torch.bool:
            category = similarity.argmax(-1).masked_fill(~active, self.categories)
            order, rank = _sorted(category, self.categories + 1)
            y = self._attend_groups(qkv, order, rank, active.sum(1, keepdim=True))
            return torch.where(active.unsqueeze(-1), y, rest)
        # One token too many, of a category that sorts last: nothing is empty even at n = 0.
        source = pad(active, (0, 1))
        category = similarity.index_select(1, source).argmax(-1)
        spare = torch.arange(source.shape[0], device=active.device) == active.shape[0]
        order, rank = _sorted(category.masked_fill(spare, self.categories), self.categories + 1)
        order = source.index_select(0, order[0]).unsqueeze(0)
        count = torch.full((1, 1), active.shape[0], device=qkv.device)
        y = self._attend_groups(qkv, order, rank[:, :-1], count)
        return rest[0].index_copy(0, active, y[0]).unsqueeze(0)

    def _attend_groups(
        self, qkv: Tensor, order: Tensor, rank: Tensor, count: Tensor | None = None
    ) -> Tensor:
        """Eq. 13 to 16. qkv: B T 3C; order: B M, the tokens as sorted -> B N C.

        rank: B N, the sorted position whose output each of N tokens takes; count: B 1, how many
        of the sorted tokens attend, None = all.
        """
        batch, tokens = rank.shape
        slots = self.group * group_count(tokens, self.group)
        everyone = torch.full((1, 1), tokens, device=qkv.device)
        place, is_key = group_places(everyone if count is None else count, slots, self.group)
        grouped = _rows(qkv, order.gather(1, place.expand(batch, -1)))
        depth = qkv.shape[-1] // (3 * self.heads)
        grouped = grouped.reshape(-1, self.group, 3, self.heads, depth)
        q, k, v = grouped.permute(2, 0, 3, 1, 4)  # B*G heads 128 depth
        q = q * self.logit_scale.clamp(max=math.log(100)).exp()
        if count is not None:
            bias = (~is_key).to(q.dtype).reshape(-1, 1, self.group, 1) * NO_KEY
            k = torch.cat((k, bias.expand(-1, self.heads, -1, -1)), -1)
            q = torch.cat((q, torch.ones_like(q[..., :1])), -1)
        y = attend(q, k, v).transpose(1, 2).reshape(batch, slots, -1)
        out: Tensor = self.proj(_rows(y, rank))
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
