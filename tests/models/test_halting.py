"""What a block still attends to: the learnt exit, and the rules it is compared with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from ppsr.models.adaformer_layout import cut, join
from ppsr.models.halting import Exit, NoExit, RandomExit, TokenExit, UniformExit, WindowExit

LIKE = torch.zeros(2, 6, 64, 4)


def confidences(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_windows_are_in_raster_order_inside_and_out():
    rows, columns = torch.arange(16).reshape(-1, 1), torch.arange(24)
    tiles = cut((rows * 24 + columns)[None, None], 8)
    assert tiles.shape == (1, 6, 64, 1)
    assert tiles[0, 1, :9, 0].tolist() == [*range(8, 16), 24 + 8]
    assert tiles[0, 3, 0, 0] == 8 * 24


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (1, 1, 8, 8)])
def test_join_undoes_cut(shape):
    image = confidences(*shape)
    assert torch.equal(join(cut(image, 8), shape[2:]), image)


def test_a_score_at_the_limit_exits():
    limit = 1 - 0.05
    below = np.nextafter(limit, 0)
    score = torch.full((1, 1, 64), limit, dtype=torch.float64)
    assert not TokenExit(limit)(score).any()
    assert TokenExit(limit)(score - (limit - below)).all()
    assert not WindowExit(limit)(score).any()


def test_a_window_exits_by_its_mean():
    score = torch.zeros(1, 2, 64)
    score[0, 0, :60] = 1.0
    score[0, 1, :61] = 1.0
    assert WindowExit(0.95)(score).tolist() == [[True, False]]  # 60/64 = 0.9375, 61/64 = 0.953
    assert TokenExit(0.95)(score).sum(-1).tolist() == [[4, 3]]


def test_confidences_add_up():
    given = confidences(3, 2, 1, 16, 24) / 2
    exit_, score, total = Exit(0.05, 8), None, np.zeros((2, 16, 24))
    for confidence in given:
        kept, score = exit_(confidence, score)
        total += confidence[:, 0].numpy()
        assert np.array_equal(join(kept.tokens.unsqueeze(-1), (16, 24))[:, 0], total < 0.95)
        means = total.reshape(2, 2, 8, 3, 8).mean((2, 4)).reshape(2, 6)
        assert np.array_equal(kept.windows, means < 0.95)
    assert 0 < kept.tokens.sum() < kept.tokens.numel()


def test_choices_are_alone_in_modules_named_choose():
    """What the check of an export hooks: (score, limit) -> bool, without parameters."""
    exit_ = Exit(0.05, 8)
    assert list(exit_.parameters()) == []
    names = [name for name, _ in exit_.named_modules() if name.endswith(".choose")]
    assert names == ["tokens.choose", "windows.choose"]
    seen = {}

    def impose(name):
        def hook(module, inputs, output):
            seen[name] = inputs
            return ~output

        return hook

    for name in names:
        exit_.get_submodule(name).register_forward_hook(impose(name))
    confidence = confidences(1, 1, 16, 24) * 1.9
    imposed, _ = exit_(confidence, None)
    own, score = Exit(0.05, 8)(confidence, None)
    assert torch.equal(imposed.tokens, ~own.tokens)
    assert torch.equal(imposed.windows, ~own.windows)
    assert torch.equal(seen["tokens.choose"][0], score)
    assert seen["windows.choose"][1] == 0.95


def test_no_exit_keeps_everything():
    assert [NoExit()(block, LIKE) for block in range(3)] == [None] * 3


def test_uniform_exit_halts_all_at_once():
    rule = UniformExit(2)
    assert rule(0, LIKE) is None
    assert rule(1, LIKE) is None
    kept = rule(2, LIKE)
    assert kept is not None
    assert kept.tokens.shape == (2, 6, 64)
    assert kept.windows.shape == (2, 6)
    assert not kept.tokens.any()
    assert not kept.windows.any()


def test_random_exit_keeps_its_shares_and_takes_nobody_back():
    rule = RandomExit((1.0, 0.5, 0.25), (1.0, 2 / 3, 0.0))
    found = [rule(block, LIKE) for block in range(4)]
    for kept, tokens, windows in zip(found, (384, 192, 96, 96), (6, 4, 0, 0), strict=True):
        assert kept.tokens.sum((1, 2)).tolist() == [tokens] * 2
        assert kept.windows.sum(1).tolist() == [windows] * 2
    for before, after in pairwise(found):
        assert not (after.tokens & ~before.tokens).any()
        assert not (after.windows & ~before.windows).any()


def test_random_exit_is_seeded_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    half = RandomExit((0.5,), (0.5,))(0, LIKE)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(half.tokens, RandomExit((0.5,), (0.5,))(3, LIKE).tokens)
    assert torch.equal(half.tokens[0], half.tokens[1])
    assert not torch.equal(half.tokens, RandomExit((0.5,), (0.5,), seed=1)(0, LIKE).tokens)


@pytest.mark.parametrize("shares", [(), (0.5, 0.6), (1.1,), (-0.1,), (float("nan"),)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="expected shares"):
        RandomExit(shares, (0.5,))
    with pytest.raises(ValueError, match="expected shares"):
        RandomExit((0.5,), shares)


def test_the_first_block_always_attends():
    with pytest.raises(ValueError, match="after 1 block or more, got 0"):
        UniformExit(0)
