"""Order, groups and AC-MSA against what the official code does, written a second time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppsr.models.category import (
    category_order,
    category_rank,
    group_count,
    group_places,
    group_tokens,
)
from ppsr.models.category_attention import CategoryAttention

GROUP = 128
COUNTS = [1, 2, 64, 127, 128, 129, 200, 255, 256, 257, 384, 1000]


def random_categories(batch: int, tokens: int, categories: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randint(categories, (batch, tokens), generator=generator)


@pytest.mark.parametrize("tokens", [1, 2, 127, 3072, 5000])
@pytest.mark.parametrize("categories", [1, 3, 64])
def test_order_is_the_stable_sort(tokens, categories):
    category = random_categories(3, tokens, categories)
    rank = category_rank(category.unsqueeze(-1), categories).long()
    order = category_order(rank)
    assert torch.equal(order.long(), torch.sort(category, dim=1, stable=True).indices)
    assert torch.equal(order.gather(1, rank), torch.arange(tokens).int().expand(3, -1))
    assert torch.equal(rank.gather(1, order.long()), torch.arange(tokens).expand(3, -1))


def test_order_of_named_tokens():
    rank = category_rank(torch.tensor([2, 0, 2, 1]).unsqueeze(-1), 3)
    named = torch.tensor([7, 9, 4, 0], dtype=torch.int32)
    assert category_order(rank, named).tolist() == [9, 0, 7, 4]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_order_has_the_indices_of_engines(dtype):
    rank = category_rank(torch.zeros((1, 5, 1), dtype=dtype), 2)
    assert rank.dtype == category_order(rank).dtype == torch.int32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=60))
def test_rank_counts_what_stands_before(category):
    rank = category_rank(torch.tensor(category).unsqueeze(-1), 8).tolist()
    pairs = [(c, i) for i, c in enumerate(category)]
    assert rank == [sum(other < pair for other in pairs) for pair in pairs]


def test_empty_categories_do_not_matter():
    category = torch.tensor([63, 0, 63, 0, 5]).unsqueeze(-1)
    assert category_rank(category, 64).tolist() == [3, 0, 4, 1, 2]


@pytest.mark.parametrize(
    ("tokens", "groups"), [(0, 1), (1, 1), (127, 1), (128, 1), (129, 2), (57600, 450)]
)
def test_groups_are_enough(tokens, groups):
    assert group_count(tokens, GROUP) == groups


def official_places(tokens: int) -> list[list[int]]:
    """Cut sorted tokens as the official AC_MSA does: flip, append, reshape."""
    size = min(tokens, GROUP)
    number = math.ceil(tokens / size)
    line = torch.arange(tokens)
    extra = number * size - tokens
    padded = torch.cat((line, torch.flip(line[tokens - extra : tokens], dims=[0])))
    return [group.tolist() for group in padded.reshape(number, size)]


@pytest.mark.parametrize("tokens", COUNTS)
def test_places_are_the_official_flip_pad(tokens):
    slots = GROUP * group_count(tokens, GROUP)
    place, is_key = group_places(torch.tensor([[tokens]]), slots, GROUP)
    read = [
        [int(p) for p, key in zip(places, keys, strict=True) if key]
        for places, keys in zip(place.reshape(-1, GROUP), is_key.reshape(-1, GROUP), strict=True)
    ]
    assert read == official_places(tokens)


@pytest.mark.parametrize("tokens", [0, *COUNTS])
def test_every_place_reads_a_row_that_exists(tokens):
    place, is_key = group_places(torch.tensor([[tokens]]), 1024, GROUP)
    assert place.min() >= 0
    assert place.max() < max(tokens, 1)
    assert is_key.sum() == (1024 if tokens >= GROUP else tokens)


def test_each_sample_has_its_own_places():
    counts = [1000, 200, 127, 1, 0]
    together = group_places(torch.tensor(counts).unsqueeze(1), 1024, GROUP)
    for sample, count in enumerate(counts):
        alone = group_places(torch.tensor([[count]]), 1024, GROUP)
        assert torch.equal(together[0][sample], alone[0][0])
        assert torch.equal(together[1].expand(5, -1)[sample], alone[1].expand(1, -1)[0])


def official_attention(module: CategoryAttention, qkv, similarity, window, active):
    """Pure-Pass eq. 11 to 18 for one sample, group by group and head by head. T 3C -> T C."""
    out = window.clone() if module.compensation else torch.zeros_like(window)
    if len(active) == 0:
        return out
    rows, category = qkv[active], similarity[active].argmax(-1)
    order = torch.sort(category, stable=True).indices
    scale = module.logit_scale.clamp(max=math.log(100)).exp().squeeze()
    channels = window.shape[1]
    depth = channels // module.heads
    for number, group in enumerate(official_places(len(active))):
        members = rows[order[group]]
        q, k, v = (members[:, i * channels : (i + 1) * channels] for i in range(3))
        heads = [slice(h * depth, (h + 1) * depth) for h in range(module.heads)]
        y = torch.cat([(q[:, h] @ k[:, h].T * scale).softmax(-1) @ v[:, h] for h in heads], 1)
        real = min(len(group), len(active) - number * len(group))  # copies after the end go
        out[active[order[group[:real]]]] = module.proj(y[:real])
    return out


def routed(tokens: int, compensation: bool):
    generator = torch.Generator().manual_seed(tokens)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    module = CategoryAttention(12, 2, GROUP, 16, compensation).double()
    qkv, similarity, window = rand(1, 300, 36), rand(1, 300, 16), rand(1, 300, 12)
    active = torch.randperm(300, generator=generator)[:tokens].sort().values
    return module, qkv, similarity, window, active


def groups(active: torch.Tensor | None):
    return group_tokens(active, 300, GROUP, 16, torch.empty(0))


@pytest.mark.parametrize("compensation", [True, False])
@pytest.mark.parametrize("tokens", [0, 1, 90, 127, 128, 129, 200, 257, 300])
def test_attention_is_the_papers(tokens, compensation):
    module, qkv, similarity, window, active = routed(tokens, compensation)
    mask = torch.zeros(1, 300, dtype=torch.bool)
    mask[0, active] = True
    with torch.no_grad():
        wanted = official_attention(module, qkv[0], similarity[0], window[0], active)
        sparse = module(qkv, similarity, window, groups(active))[0]
        static = module(qkv, similarity, window, groups(mask))[0]
        dense = module(qkv, similarity, window, groups(None))[0]
    torch.testing.assert_close(sparse, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(static, wanted, rtol=0, atol=1e-12)
    if tokens == 300:
        torch.testing.assert_close(dense, wanted, rtol=0, atol=1e-12)
    else:
        assert (dense - wanted).abs().max() > 1e-3


def test_pure_tokens_take_the_window_attention_or_nothing():
    module, qkv, similarity, window, active = routed(200, True)
    pure = torch.ones(300, dtype=torch.bool)
    pure[active] = False
    with torch.no_grad():
        kept = module(qkv, similarity, window, groups(active))[0]
        module.compensation = False
        dropped = module(qkv, similarity, window, groups(active))[0]
    assert torch.equal(kept[pure], window[0, pure])
    assert (dropped[pure] == 0).all()
    assert torch.equal(kept[active], dropped[active])


def test_logit_scale_is_capped_at_a_hundred():
    module, qkv, similarity, window, _ = routed(300, True)
    with torch.no_grad():
        module.logit_scale.fill_(math.log(100))
        capped = module(qkv, similarity, window, groups(None))
        module.logit_scale.fill_(9.0)
        assert torch.equal(module(qkv, similarity, window, groups(None)), capped)
        module.logit_scale.fill_(4.0)
        assert not torch.equal(module(qkv, similarity, window, groups(None)), capped)
