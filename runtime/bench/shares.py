"""Latency over the share of pure pixels: real crops by share, and masks made for the purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.calibration.crops import Crop
from ppsr.models.config import PurePass
from ppsr.models.flops import multiply_adds, paper_flops
from ppsr.models.pure_pass import active_tokens, pad_to_grid
from ppsr.runtime.artefact import ACTIVE, INPUT
from ppsr.runtime.sidecar import Size
from ppsr.runtime.tiles import WHOLE

from .break_even import BreakEven, break_even
from .inputs import Input, Rgb, as_input
from .masks import SHARES, choose_by_share, made_mask
from .models import Model
from .timing import Sample, Summary, Timing, in_turns, summarise

STEADY = 1.1
"""On an idle machine the quartiles of the dense model's runs on one tensor differ by less."""

Run = Callable[[], Sample]


@dataclass(frozen=True)
class Point:
    """The masked model against the dense one at one share of pure pixels."""

    picture: str
    size: Size
    """H W of the input."""
    share: float
    masked: Timing
    dense: Timing
    saving_paper: float
    """Of multiply-adds as the papers count them; no routing."""
    saving_multiply_adds: float
    """Of all multiply-adds that the network does, padding and routing included."""

    @property
    def ratio(self) -> Summary:
        """Dense / masked by round; above 1: masking is faster."""
        return self.masked.ratio(self.dense)

    @property
    def saving(self) -> Summary:
        """1 - masked / dense by round."""
        return summarise(self.masked.savings(self.dense))

    def to_json(self) -> dict[str, Any]:
        """Spell the point for JSON. Times are milliseconds."""
        return {
            "picture": self.picture,
            "size": self.size,
            "share": self.share,
            "masked": asdict(self.masked.milliseconds),
            "dense": asdict(self.dense.milliseconds),
            "ratio": asdict(self.ratio),
            "saving": asdict(self.saving),
            "saving_paper": self.saving_paper,
            "saving_multiply_adds": self.saving_multiply_adds,
            "masked_rounds": [sample.milliseconds for sample in self.masked.samples],
            "dense_rounds": [sample.milliseconds for sample in self.dense.samples],
        }


@dataclass(frozen=True)
class Curve:
    """One masked model over the shares."""

    model: str
    real: tuple[Point, ...]
    synthetic: tuple[Point, ...]
    """Empty where the model finds its own mask and cannot be told another."""

    @property
    def break_even(self) -> BreakEven | None:
        """By the line through the synthetic points; None without them."""
        if not self.synthetic:
            return None
        return break_even(
            [point.share for point in self.synthetic],
            [point.saving.median for point in self.synthetic],
        )

    @property
    def unsteady(self) -> str | None:
        """What to say where the dense model's time changes although its input does not."""
        runs = [run.milliseconds for point in self.synthetic for run in point.dense.samples]
        found = summarise(runs) if runs else None
        if found is None or found.high < STEADY * found.low:
            return None
        return (
            f"the machine was not steady: dense took {found.low:.0f} to {found.high:.0f} ms "
            "(quartiles) on one and the same input; measure again while nothing else runs"
        )

    def to_json(self) -> dict[str, Any]:
        """Spell the curve for JSON."""
        found = self.break_even
        return {
            "model": self.model,
            "real": [point.to_json() for point in self.real],
            "synthetic": [point.to_json() for point in self.synthetic],
            "break_even": None if found is None else found.to_json(),
            "unsteady": self.unsteady,
        }


def measure_curve(
    model: Model,
    dense: Model,
    crops: Sequence[Crop],
    runs: int,
    say: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Measure real crops of one size, binned, and one of them with masks made for it.

    In each round both models run on every crop and mask, so that a disturbance of some seconds
    spoils one round of several points, and the medians stand. ``say`` is told what is being
    measured. Raises PpsrError where a model fails.
    """
    chosen = [as_input(crop) for found in choose_by_share(crops).values() for crop in found]
    say("shares: photos")
    pairs = [(_whole(model, one), _whole(dense, one)) for one in chosen]
    real = [
        _point(model, dense, one, _mask(model, one), *timings)
        for one, timings in zip(chosen, _measure(pairs, model, dense, runs), strict=True)
    ]
    if not model.upscaler.artefact.takes_active:
        return Curve(model.name, tuple(real), ())
    middle = as_input(sorted(crops, key=lambda crop: crop.pure)[len(crops) // 2])
    size = pad_to_grid(middle.rgb).shape[:2]
    masks = [made_mask((size[0], size[1]), share) for share in SHARES]
    say("shares: made masks")
    pairs = [_told(model, dense, middle, mask) for mask in masks]
    made = [
        _point(model, dense, middle, mask, *timings)
        for mask, timings in zip(masks, _measure(pairs, model, dense, runs), strict=True)
    ]
    return Curve(model.name, tuple(real), tuple(made))


def _measure(
    pairs: Sequence[tuple[Run, Run]], model: Model, dense: Model, runs: int
) -> list[tuple[Timing, Timing]]:
    """Run every pair once in each round, now the masked model first, now the dense one."""

    def both(masked: Run, plain: Run) -> Callable[[], tuple[Sample, Sample]]:
        turn = count()

        def run() -> tuple[Sample, Sample]:
            if next(turn) % 2 == 0:
                return masked(), plain()
            second = plain()
            return masked(), second

        return run

    warm_up = max(model.warm_up, dense.warm_up)
    found = in_turns([both(*pair) for pair in pairs], runs, [warm_up] * len(pairs))
    return [
        (Timing(tuple(first for first, _ in each)), Timing(tuple(second for _, second in each)))
        for each in found
    ]


def _whole(model: Model, one: Input) -> Run:
    def run() -> Sample:
        result = model.upscaler.upscale(one.rgb, tiling=WHOLE)
        return Sample(result.milliseconds, result.routing_milliseconds)

    return run


def _told(model: Model, dense: Model, one: Input, mask: npt.NDArray[np.bool_]) -> tuple[Run, Run]:
    """Run both backends on one tensor, the masked one told which tokens are active.

    Finding the picture's own mask costs the same whatever is in it, so it is done and its time
    counted, and its result left unused.
    """
    padded = pad_to_grid(one.rgb)
    floats = padded.astype(np.float32) / np.float32(255)
    tensor = np.ascontiguousarray(floats.transpose(2, 0, 1)[None])
    settings = model.upscaler.artefact.pure_pass
    assert settings is not None
    backend, other = model.upscaler.backend, dense.upscaler.backend
    on_device = None if backend.wants_active else _routing_on_device(model, one.rgb)

    def masked() -> Sample:
        start = time.perf_counter()
        active = _routed(settings, padded, mask) if on_device is None else active_tokens(mask)
        middle = time.perf_counter()
        backend.run({INPUT: tensor, ACTIVE: active})
        took = 1000 * (time.perf_counter() - middle)
        routing = 1000 * (middle - start) if on_device is None else on_device
        return Sample(routing + took, routing)

    def plain() -> Sample:
        start = time.perf_counter()
        other.run({INPUT: tensor})
        return Sample(1000 * (time.perf_counter() - start), 0.0)

    return masked, plain


def _routed(settings: PurePass, padded: Rgb, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    settings.mask(padded)
    return active_tokens(mask)


def _routing_on_device(model: Model, rgb: Rgb) -> float:
    """Return what a backend that routes by itself takes for that, milliseconds."""
    for _ in range(model.warm_up + 1):
        result = model.upscaler.upscale(rgb, tiling=WHOLE)
    return result.routing_milliseconds or 0.0


def _mask(model: Model, one: Input) -> npt.NDArray[np.bool_]:
    """The picture's own mask, padded."""
    settings = model.upscaler.artefact.pure_pass
    assert settings is not None
    return settings.mask(pad_to_grid(one.rgb))


def _point(
    model: Model,
    against: Model,
    one: Input,
    mask: npt.NDArray[np.bool_],
    masked: Timing,
    dense: Timing,
) -> Point:
    height, width = one.size
    of = (model.upscaler.scale, height, width)
    share = float(mask[:height, :width].mean())
    name, other = model.upscaler.artefact.model, against.upscaler.artefact.model
    counted = multiply_adds(name, *of, int((~mask).sum()))
    return Point(
        picture=one.name,
        size=one.size,
        share=share,
        masked=masked,
        dense=dense,
        saving_paper=1 - paper_flops(name, *of, share) / paper_flops(other, *of),
        saving_multiply_adds=1 - counted / multiply_adds(other, *of),
    )
