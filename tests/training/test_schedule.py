from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ppsr.models.errors import UsageError
from ppsr.training.average import Average
from ppsr.training.options import TrainOptions
from ppsr.training.schedule import learning_rate, progress


def test_the_rate_rises_then_falls_to_nothing() -> None:
    options = TrainOptions(steps=1000, rate=1.0, warm_up=9)
    rates = [learning_rate(options, step, step / 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert rates.index(max(rates)) == 9
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[500] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-5
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_progress_by_steps_and_by_the_clock() -> None:
    assert progress(TrainOptions(steps=200), 50, seconds=1e9) == 0.25
    assert progress(TrainOptions(minutes=10), 10**9, seconds=150) == 0.25
    assert progress(TrainOptions(minutes=10), 0, seconds=601) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--steps and --minutes"),
        ({"steps": 1, "minutes": 1.0}, "--steps and --minutes"),
        ({"minutes": float("nan")}, "--minutes above 0, got nan"),
        ({"steps": 1, "patch": 24}, "multiple of 16, got 24"),
        ({"steps": 1, "batch": 0}, "--batch above 0"),
        ({"steps": 1, "rate": float("nan")}, "--rate above 0"),
        ({"steps": 1, "average": 1.0}, "--average"),
        ({"steps": 1, "scale": 5}, "--scale"),
    ],
)
def test_options_that_make_no_run(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainOptions(**values)


def test_options_survive_their_folder(options: Callable[..., TrainOptions]) -> None:
    made = options(betas=(0.8, 0.95))
    assert TrainOptions.from_dict({**made.to_dict(), "betas": [0.8, 0.95]}) == made


def test_the_average_follows_its_formula() -> None:
    model = nn.Linear(3, 2)
    average = Average(model, decay=0.9)
    expected = model.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.weights["weight"], expected)
    assert not torch.equal(average.weights["weight"], model.weight)
