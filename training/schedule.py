"""How far a run is, and the learning rate that goes with it."""

from __future__ import annotations

import math

from .options import TrainOptions


def progress(options: TrainOptions, step: int, seconds: float) -> float:
    """Return the share of the run that is done, from 0 to 1: by steps, or by the clock."""
    if options.steps is not None:
        return min(step / options.steps, 1.0)
    assert options.minutes is not None
    return min(seconds / (60 * options.minutes), 1.0)


def learning_rate(options: TrainOptions, step: int, done: float) -> float:
    """Rise in a straight line for ``warm_up`` steps, under a cosine that falls to 0.

    step counts from 0, done is what ``progress`` says before that step.
    """
    rise = min((step + 1) / (options.warm_up + 1), 1.0)
    return options.rate * rise * 0.5 * (1 + math.cos(math.pi * done))
