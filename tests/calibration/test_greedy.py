"""The order of moves and how many are kept, against brute force."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from ppsr.calibration.greedy import (
    CHANCE,
    Group,
    Sensitivity,
    cost,
    longest,
    order_moves,
    predicted_moves,
)
from ppsr.calibration.scores import Score


def alone(group: str, precision: str, saving: float, error: float) -> Sensitivity:
    return Sensitivity(group, precision, saving, error, 50.0, 0.01, None)  # type: ignore[arg-type]


def test_what_is_saved() -> None:
    group = Group("g", ("fp16", "int8"), multiply_adds=100, bytes=40)
    assert (group.saving("fp16", "time"), group.saving("int8", "time")) == (50, 75)
    assert (group.saving("fp16", "bytes"), group.saving("int8", "bytes")) == (20, 30)
    assert group.saving("fp32", "time") == 0


def test_least_error_per_saving_goes_first() -> None:
    moves = order_moves(
        [alone("a", "int8", 10, 5), alone("b", "int8", 10, 1), alone("c", "int8", 100, 20)]
    )
    assert moves == [("b", "int8"), ("c", "int8"), ("a", "int8")]


def test_a_group_may_move_twice_and_others_go_between() -> None:
    found = order_moves(
        [alone("a", "fp16", 2, 1), alone("a", "int8", 3, 9), alone("b", "int8", 1, 2)]
    )
    assert found == [("a", "fp16"), ("b", "int8"), ("a", "int8")]


@pytest.mark.parametrize(
    ("half", "eighth", "expected"),
    [
        ((2, 5), (3, 4), ["int8"]),  # Beaten in both.
        ((2, 4), (3, 4.5), ["int8"]),  # Above the line from nothing to int8.
        ((2, 2), (3, 3), ["int8"]),  # On it: one move does.
        ((2, 0), (3, 0), ["int8"]),
        ((2, 1), (3, 3), ["fp16", "int8"]),
        ((0, 0), (0, 0), []),  # Nothing is saved.
        ((0, 0), (3, 1), ["int8"]),
    ],
)
def test_what_is_not_worth_a_move_is_left_out(
    half: tuple[float, float], eighth: tuple[float, float], expected: list[str]
) -> None:
    options = [alone("a", "fp16", *half), alone("a", "int8", *eighth)]
    for some in (options, options[::-1]):
        assert [precision for _, precision in order_moves(some)] == expected


def test_ties_keep_the_order_they_were_measured_in() -> None:
    options = [alone(name, "int8", 4, 2) for name in "dbca"]
    assert [group for group, _ in order_moves(options)] == [*"dbca"]


@pytest.mark.parametrize("seed", range(20))
def test_no_mix_saves_much_more_within_the_same_error(seed: int) -> None:
    """The relaxed optimum: whatever prefix is taken, the best mix lies below the next move."""
    rng = np.random.default_rng(seed)
    options = {
        (name, to): (size * share, size * float(rng.lognormal(0, 2)))
        for name, size in zip("abcde", rng.integers(1, 50, 5).tolist(), strict=True)
        for to, share in (("fp16", 0.5), ("int8", 0.75))
    }
    order = order_moves([alone(*move, *values) for move, values in options.items()])
    zero = (0.0, 0.0)
    for k in range(len(order)):
        now, then = ([options[m] for m in dict(order[:n]).items()] for n in (k, k + 1))
        error, saving = sum(e for _, e in now), sum(s for s, _ in now)
        best = 0.0
        for picks in product((None, "fp16", "int8"), repeat=5):
            chosen = [options.get((g, p), zero) for g, p in zip("abcde", picks, strict=True)]  # type: ignore[arg-type]
            if sum(e for _, e in chosen) <= error * (1 + 1e-12):
                best = max(best, sum(s for s, _ in chosen))
        assert best == pytest.approx(saving)
        assert sum(s for s, _ in then) > saving


@pytest.mark.parametrize("most", [0, 1, 2, 7, 60])
def test_the_longest_is_found_from_any_guess(most: int) -> None:
    for truth in range(most + 1):
        for guess in range(most + 1):
            asked: list[int] = []

            def holds(n: int, truth: int = truth, asked: list[int] = asked) -> bool:
                asked.append(n)
                return n <= truth

            assert longest(holds, guess, most) == truth
            assert len(set(asked)) == len(asked)
            assert all(1 <= n <= most for n in asked)
            assert len(asked) <= 2 + 2 * math.log2(abs(truth - guess) + 2)


def test_where_it_is_not_monotone_it_ends_at_an_edge() -> None:
    held = {1, 2, 5, 6, 9}
    for guess in range(11):
        found = longest(held.__contains__, guess, 10)
        assert found in held | {0}
        assert found + 1 not in held


def test_a_move_costs_what_it_adds_to_the_error() -> None:
    """Not its noise: pixels that are regrouped change far, and as often for the better."""
    base = Score((30.0,), (1e-3,), (0.0,), (0.0,), None)

    def moved(error: float, noise: float) -> float:
        return cost(Score((30.0,), (error,), (noise,), (noise,), None), base)

    assert moved(1.2e-3, 8e-4) == pytest.approx(2e-4)
    assert moved(0.9e-3, 8e-4) == CHANCE * 8e-4
    assert moved(2.0e-3, 8e-4) == 8e-4


def test_the_prediction_adds_squares() -> None:
    base = Score((30.0, 40.0), (1e-3, 1e-4), (0.0, 0.0), (0.0, 0.0), None)

    def noise(*values: float) -> Score:
        added = tuple(one + more for one, more in zip(base.error, values, strict=True))
        return Score((0.0, 0.0), added, values, values, None)

    scores = {
        ("a", "fp16"): noise(1e-5, 1e-6),
        ("b", "int8"): noise(2e-5, 4e-6),
        ("a", "int8"): noise(5e-5, 9e-6),  # Takes the place of a's first move.
    }
    order = list(scores)
    error = 1e-3 + 1e-4
    drops = [
        10 * math.log10(1 + sum(noises) / error)
        for noises in ((1e-5, 1e-6), (3e-5, 5e-6), (7e-5, 1.3e-5))
    ]
    for n, drop in enumerate(drops, 1):
        assert predicted_moves(order, scores, base, float(drop) + 1e-9) == n  # type: ignore[arg-type]
        assert predicted_moves(order, scores, base, float(drop) - 1e-9) == n - 1  # type: ignore[arg-type]
