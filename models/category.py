"""Categories of tokens: their one order, and the groups of 128 that are cut from it.

The order is a stable counting sort: one-hot, cumulative sum, scatter. No Sort or TopK is involved,
so it traces with dynamic length, runs in engines (TopK stops at K = 3840 there), and is exact:
every number in it is an integer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO_KEY = -1e4
"""Added to the logits of places that hold no token: exp is 0, and float16 can hold it."""


def category_rank(category: Tensor, categories: int) -> Tensor:
    """Return where each token stands once tokens are sorted, stably, by category.

    category: integers ... N 1 in [0, categories), N >= 1 -> int32 ... N, the inverse of the order.
    """
    tokens = category.shape[-2]
    kinds = torch.arange(categories, device=category.device, dtype=category.dtype)
    member = (category == kinds).int()
    upto = member.cumsum(-2, dtype=torch.int32)  # N K: tokens of category k among the first n + 1
    last = torch.scalar_tensor(tokens - 1, dtype=torch.int32, device=category.device).reshape(1)
    total = upto.index_select(-2, last)  # a slice costs an engine 26 layers, this one
    before = total.cumsum(-1, dtype=torch.int32) - total  # 1 K: tokens of smaller categories
    return (upto + before).gather(-1, category.long()).squeeze(-1) - 1


def category_order(rank: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Invert ``rank``: the token that stands at each position. int32 ... N -> int32 ... N.

    tokens: int32 N, the tokens that ``rank`` is of; None: 0, 1, 2 ...
    """
    if tokens is None:
        tokens = torch.arange(rank.shape[-1], device=rank.device, dtype=rank.dtype)
    if rank.ndim > 1:
        tokens = tokens.expand_as(rank)
    return tokens.scatter(-1, rank.long(), tokens)  # every place is written


class Groups(NamedTuple):
    """Who takes part in category attention on one picture, and how sorted tokens fill groups.

    The same in every layer: worked out once per picture. Indices are int32, as engines have them.
    """

    place: Tensor
    """int32 B slots: the sorted position that each place of the groups reads."""
    query: Tensor | None = None
    """B*G 1 L 1: the channel to append to queries of groups of L places; None: every place holds a
    token."""
    key: Tensor | None = None
    """B*G 1 L 1: the channel to append to keys: ``NO_KEY`` where a place holds no token, else 0."""
    active: Tensor | None = None
    """None = every token; int64 n = raster indices of the active tokens in rising order (batch 1,
    n >= 0); bool B T = True where active (any batch, static shapes)."""
    source: Tensor | None = None
    """int32 n + 1, with an int64 ``active``: those and one spare, so that nothing is empty at
    n = 0. The spare is token 0."""
    floor: Tensor | None = None
    """Least category of each token: int32 n + 1 1 with ``source``, where the spare has the last
    one, and so, being the last token of it, comes last; B T 1 with a bool ``active``, where tokens
    that do not take part have ``categories``, one more than there are."""
    kept: Tensor | None = None
    """int32 n: the places in ``source`` of all but the spare."""


def group_tokens(
    active: Tensor | None, tokens: int, group: int, categories: int, like: Tensor
) -> Groups:
    """Plan the groups of a picture of ``tokens`` tokens, on the device of ``like``.

    active: see ``Groups``. The channels have the dtype of ``like``.
    """
    if active is None:
        everyone = torch.full((1, 1), tokens, device=like.device)
        return Groups(group_places(everyone, group * group_count(tokens, group), group)[0])
    if active.dtype == torch.bool:
        count = active.sum(1, keepdim=True)
        place, is_key = group_places(count, group * group_count(tokens, group), group)
        floor = (~active).int().unsqueeze(-1) * categories
        return Groups(place, *_channels(is_key, group, like), active, floor=floor)
    number = active.shape[0]
    count = torch.full((1, 1), number, device=active.device)
    place, is_key = group_places(count, group * group_count(number, group), group)
    kept = torch.arange(number, device=active.device, dtype=torch.int32)
    spare = torch.zeros(1, device=active.device, dtype=torch.int32)
    source = torch.cat((active.int(), spare))
    position = torch.arange(number + 1, device=active.device, dtype=torch.int32)
    floor = ((position == number).int() * (categories - 1)).unsqueeze(-1)
    return Groups(place, *_channels(is_key, group, like), active, source, floor, kept)


def _channels(is_key: Tensor, group: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Make q'.k' = q.k + (0 or NO_KEY) with one more channel. bool B slots -> query, key."""
    key = torch.where(is_key, 0.0, NO_KEY).to(like.dtype).reshape(-1, 1, group, 1)
    return torch.ones_like(key), key


def group_count(tokens: int, group: int) -> int:
    """Groups needed for ``tokens``, at least one."""
    groups: int = torch.sym_max(1, (tokens + group - 1) // group)  # type: ignore[no-untyped-call]
    return groups


def group_places(count: Tensor, slots: int, group: int) -> tuple[Tensor, Tensor]:
    """Say which sorted token each of ``slots`` places reads, and which places count as keys.

    ATD tops up the last group with the sorted tokens in reverse, and these do take part as keys:
    place j >= n reads token 2n - 1 - j. A sample of n < ``group`` tokens is one group of n in ATD;
    here its spare places read a valid row but are no keys. Places past the last group in use
    belong to other samples of the batch; what they read is of no consequence.

    count: int64 B 1, the n of each sample -> int32 B slots in [0, max(n, 1)), bool B slots.
    """
    place = torch.arange(slots, device=count.device).unsqueeze(0)
    inside = place < count
    position = torch.where(inside, place, 2 * count - 1 - place).clamp(min=0)
    return position.int(), inside | (count >= group)
