from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from ppsr.models.pure_pass import purity_mask
from ppsr.runtime.bench.inputs import Input
from ppsr.runtime.bench.models import Model
from ppsr.runtime.bench.rows import Row, by_size, measure, totals
from ppsr.runtime.bench.timing import Sample, Summary, Timing, in_turns, summarise
from ppsr.runtime.upscaler import Upscaler


def timing(*milliseconds: float, routing: float | None = None) -> Timing:
    return Timing(tuple(Sample(value, routing) for value in milliseconds))


def test_summary_is_median_and_quartiles() -> None:
    assert summarise([5, 1, 4, 2, 3]) == Summary(3, 2, 4)
    assert summarise([1, 2, 3, 4]) == Summary(2.5, 1.75, 3.25)
    assert summarise([7]) == Summary(7, 7, 7)
    with pytest.raises(ValueError, match="at least one value"):
        summarise([])


def test_the_order_rotates_after_the_warm_up() -> None:
    order: list[str] = []

    def runner(name: str) -> Callable[[], int]:
        return lambda: (order.append(name), len(order))[1]

    found = in_turns([runner("a"), runner("b"), runner("c")], 4, [1, 2, 0])
    assert "".join(order[:3]) == "abb"
    assert "".join(order[3:]) == "abcbcacababc"
    assert found == [(4, 9, 11, 13), (5, 7, 12, 14), (6, 8, 10, 15)]


def test_drift_cancels_in_the_ratio() -> None:
    """A machine that becomes three times as slow: medians of times say little, ratios all."""
    masked, dense = timing(10, 20, 30), timing(15, 30, 45)
    assert masked.ratio(dense) == Summary(1.5, 1.5, 1.5)
    assert masked.savings(dense) == pytest.approx([1 / 3] * 3)
    assert masked.milliseconds == Summary(20, 15, 25)


def test_routing_is_unknown_where_one_run_does_not_know_it() -> None:
    assert timing(1, 2, routing=1).routing == Summary(1, 1, 1)
    assert Timing((Sample(1, 1), Sample(2))).routing is None


def test_all_models_run_in_turns(photo: Callable, fake: Callable) -> None:
    order: list[str] = []
    masked, dense = fake(form="routed"), fake(form="routed", model="atd-light")
    masked.change = lambda output: (order.append("m"), output)[1]
    dense.change = lambda output: (order.append("d"), output)[1]
    models = [Model("", "m", Upscaler(masked))], Model("", "d", Upscaler(dense))
    first, second = measure(*models, [Input("a", photo())], 3)
    assert "".join(order) == "mdmddmmd"
    assert (first.picture, first.size, first.pixels) == ("a", (61, 83), 61 * 83)
    assert first.pure == purity_mask(photo()).mean()
    assert first.psnr_db == math.inf
    assert (second.pure, second.psnr_db, second.ratio) == (None, None, None)
    assert first.dense == second.milliseconds.median
    assert len(first.rounds) == 3


def test_the_warm_up_is_not_counted(
    photo: Callable, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read around the mask, then at the start, after the active tokens, at the end."""
    masked = [(0, 400, 0, 500, 8600), (0, 0.5, 0, 0.5, 9.5), (0, 1, 0, 1, 29), (0, 2, 0, 1, 18)]
    dense = [(0, 7000), (0, 50), (0, 70), (0, 40)]
    turns = [masked[0], dense[0], masked[1], dense[1], dense[2], masked[2], masked[3], dense[3]]
    ticks = iter([tick / 1000 for turn in turns for tick in turn])
    monkeypatch.setattr("ppsr.runtime.runner.time.perf_counter", lambda: next(ticks))
    models = (Upscaler(fake(form="routed")), Upscaler(fake(form="routed", model="atd-light")))
    row, other = measure(
        [Model("", "m", models[0])], Model("", "d", models[1]), [Input("a", photo())], 3
    )
    assert row.rounds == pytest.approx([10, 30, 20])
    assert other.rounds == pytest.approx([50, 70, 40])
    assert row.routing == Summary(*map(pytest.approx, (2, 1.5, 2.5)))
    assert row.ratio is not None
    assert row.ratio.median == pytest.approx(70 / 30)
    assert row.microseconds_per_pixel == pytest.approx(20_000 / (61 * 83))
    assert row.pixels_per_second == pytest.approx(61 * 83 / 0.020)


def test_totals_add_times_and_weigh_shares_by_pixels() -> None:
    times, ratio = Summary(10, 9, 12), Summary(2, 1, 4)
    first = Row("a", (10, 10), 100, "m", 0.5, times, Summary(1, 1, 1), 20, ratio, math.inf)
    times, ratio = Summary(30, 28, 31), Summary(1, 0.5, 2)
    second = Row("b", (10, 30), 300, "m", 0.1, times, None, 20, ratio, 50.0)
    (total,) = totals([first, second])
    assert (total.picture, total.size, total.pixels) == ("all", None, 400)
    assert total.pure == pytest.approx(0.2)
    assert total.kept is None
    (kept,) = totals([replace(first, kept=(1.0, 0.5)), replace(second, kept=(1.0, 0.1))])
    assert kept.kept == pytest.approx((1, 0.2))
    assert total.milliseconds == Summary(40, 37, 43)
    assert (total.routing, total.dense, total.psnr_db) == (None, 40, 50)
    assert total.ratio == Summary(*map(pytest.approx, (40 / 30, 40 / 60, 40 / 15)))
    assert by_size([second, replace(second, picture="c"), first])[1].pixels == 600
    assert [row.size for row in by_size([second, first])] == [(10, 10), (10, 30)]


def test_a_stalled_run_spoils_no_total(photo: Callable) -> None:
    """17 s in one of five rounds, of another picture each."""
    stalls = [timing(10, 17_000, 10, 10, 10), timing(10, 10, 10, 17_000, 10)]
    dense = timing(15, 15, 15, 15, 15)
    rows = [Row(str(at), (8, 8), 64, "m", 0.5, one.milliseconds, None, 15, one.ratio(dense))
            for at, one in enumerate(stalls)]  # fmt: skip
    assert totals(rows)[0].ratio == Summary(*[pytest.approx(1.5)] * 3)
