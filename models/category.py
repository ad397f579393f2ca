"""Categories of tokens: their one order, and the groups of 128 that are cut from it.

The order is a stable counting sort: one-hot, cumulative sum, scatter. No Sort or TopK is involved,
so it traces with dynamic length, runs in engines (TopK stops at K = 3840 there), and is exact:
every number in it is an integer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def category_rank(category: Tensor, categories: int) -> Tensor:
    """Return where each token stands once tokens are sorted, stably, by category.

    category: int64 B N in [0, categories) -> int64 B N. ``rank`` is the inverse of the order.
    """
    index = category.unsqueeze(-1)
    member = (index == torch.arange(categories, device=category.device)).int()
    upto = member.cumsum(1, dtype=torch.int32)  # B N K: tokens of category k among the first n + 1
    total = member.sum(1, keepdim=True, dtype=torch.int32)
    before = total.cumsum(2, dtype=torch.int32) - total  # B 1 K: tokens of smaller categories
    return ((upto + before).gather(2, index).squeeze(2) - 1).long()


def category_order(rank: Tensor) -> Tensor:
    """Invert ``rank``: the token that stands at each position. int64 B N -> int64 B N."""
    position = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
    return torch.zeros_like(rank).scatter(1, rank, position)


def group_count(tokens: int, group: int) -> int:
    """Groups needed for ``tokens``, at least one."""
    return torch.sym_max(1, (tokens + group - 1) // group)  # type: ignore[no-any-return]


def group_places(count: Tensor, slots: int, group: int) -> tuple[Tensor, Tensor]:
    """Say which sorted token each of ``slots`` places reads, and which places count as keys.

    ATD tops up the last group with the sorted tokens in reverse, and these do take part as keys:
    place j >= n reads token 2n - 1 - j. A sample of n < ``group`` tokens is one group of n in ATD;
    here its spare places read a valid row but are no keys. Places past the last group in use
    belong to other samples of the batch; what they read is of no consequence.

    count: int64 B 1, the n of each sample -> int64 B slots in [0, max(n, 1)), bool B slots.
    """
    place = torch.arange(slots, device=count.device).unsqueeze(0)
    inside = place < count
    position = torch.where(inside, place, 2 * count - 1 - place).clamp(min=0)
    return position, inside | (count >= group)
