"""The models on pictures: one row for each picture and model, and their sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ppsr.runtime.metrics import psnr
from ppsr.runtime.sidecar import Size
from ppsr.runtime.tiles import WHOLE
from ppsr.runtime.upscaler import Result

from .inputs import Input
from .models import Model
from .timing import Sample, Summary, Timing, added, in_turns


@dataclass(frozen=True)
class Row:
    """One model on one picture, or on several together."""

    picture: str
    size: Size | None
    """H W of the input; None where several sizes are added up."""
    pixels: int
    """Of the input."""
    model: str
    pure: float | None
    """Share of pure pixels; None for a model without Pure-Pass."""
    milliseconds: Summary
    """Of the model with its routing."""
    routing: Summary | None
    """The part of it spent on routing; None where the graph routes itself."""
    dense: float | None = None
    """Median of the dense model in the same rounds, milliseconds; None: there is none, or it is."""
    ratio: Summary | None = None
    """Dense / own, within each round; above 1: faster than dense."""
    psnr_db: float | None = None
    """Between its output and the dense one's, RGB; inf where equal, None where there is none."""
    rounds: tuple[float, ...] = ()
    """Milliseconds of each; none where several pictures are added up."""
    kept: tuple[float, ...] | None = None
    """Share of the pixels that each block attends to; None for a network whose tokens stay."""

    @property
    def microseconds_per_pixel(self) -> float:
        """Of the input, by the median."""
        return 1000 * self.milliseconds.median / self.pixels

    @property
    def pixels_per_second(self) -> float:
        """Of the input, by the median."""
        return 1000 * self.pixels / self.milliseconds.median

    def to_json(self) -> dict[str, Any]:
        """Spell the row for JSON, with every round; ``psnr_db`` is "inf" for equal outputs."""
        routing, ratio = self.routing, self.ratio
        return {
            "picture": self.picture,
            "size": self.size,
            "pixels": self.pixels,
            "model": self.model,
            "pure": self.pure,
            "kept": self.kept,
            "milliseconds": asdict(self.milliseconds),
            "routing_milliseconds": None if routing is None else asdict(routing),
            "microseconds_per_pixel": self.microseconds_per_pixel,
            "pixels_per_second": self.pixels_per_second,
            "ratio": None if ratio is None else asdict(ratio),
            "psnr_db": spelt_psnr(self.psnr_db),
            "rounds": list(self.rounds),
        }


def spelt_psnr(value: float | None) -> float | str | None:
    """Spell a PSNR for JSON, which has no inf."""
    return value if value is None or math.isfinite(value) else str(value)


def measure(
    models: Sequence[Model],
    dense: Model | None,
    inputs: Sequence[Input],
    runs: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Run all models in turns on each input, whole -> the rows, the dense model's last of each.

    ``say`` is told what is being measured. Raises PpsrError where a model fails or memory does not
    suffice.
    """
    rows = []
    for one in inputs:
        say(one.name)
        rows += _measure(models, dense, one, runs)
    return rows


def _measure(models: Sequence[Model], dense: Model | None, one: Input, runs: int) -> list[Row]:
    everyone = [*models, *([] if dense is None else [dense])]
    last: dict[int, Result] = {}

    def runner(at: int) -> Callable[[], Sample]:
        def run() -> Sample:
            result = last[at] = everyone[at].upscaler.upscale(one.rgb, tiling=WHOLE)
            return Sample(result.milliseconds, result.routing_milliseconds)

        return run

    found = in_turns(
        [runner(at) for at in range(len(everyone))], runs, [model.warm_up for model in everyone]
    )
    timings = [Timing(samples) for samples in found]
    rows = []
    for at, model in enumerate(everyone):
        own, last_one = timings[at], len(everyone) - 1
        row = Row(
            picture=one.name,
            size=one.size,
            pixels=one.size[0] * one.size[1],
            model=model.name,
            pure=last[at].pure,
            milliseconds=own.milliseconds,
            routing=own.routing,
            rounds=tuple(sample.milliseconds for sample in own.samples),
            kept=last[at].kept,
        )
        if dense is not None and at < last_one:
            row = replace(
                row,
                dense=timings[-1].milliseconds.median,
                ratio=own.ratio(timings[-1]),
                psnr_db=psnr(last[at].pixels, last[last_one].pixels),
            )
        rows.append(row)
    return rows


def by_size(rows: Sequence[Row]) -> list[Row]:
    """Add up the pictures of each size, by model; sizes from small to large."""
    sizes = {row.size for row in rows if row.size is not None}
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return [
        total for size in ordered for total in totals([row for row in rows if row.size == size])
    ]


def totals(rows: Sequence[Row]) -> list[Row]:
    """Add up all pictures, by model, in the order of the models.

    Medians are added to medians, quartiles to quartiles: one stalled run spoils no total. The ratio
    is what the pictures' ratios make of the dense model's total. The share is over all pixels, the
    PSNR the worst picture's.
    """
    return [_total([row for row in rows if row.model == name]) for name in _names(rows)]


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _total(rows: Sequence[Row]) -> Row:
    pixels = sum(row.pixels for row in rows)
    shares = [row.pure * row.pixels for row in rows if row.pure is not None]
    routing = [row.routing for row in rows if row.routing is not None]
    pairs = [(row.dense, row.ratio) for row in rows if row.dense is not None and row.ratio]
    psnrs = [row.psnr_db for row in rows if row.psnr_db is not None]
    kept = [[share * row.pixels for share in row.kept] for row in rows if row.kept is not None]
    sizes = {row.size for row in rows}
    return Row(
        picture="all" if len(rows) != 1 else rows[0].picture,
        size=sizes.pop() if len(sizes) == 1 else None,
        pixels=pixels,
        model=rows[0].model,
        pure=sum(shares) / pixels if shares else None,
        milliseconds=added([row.milliseconds for row in rows]),
        routing=added(routing) if len(routing) == len(rows) else None,
        dense=sum(dense for dense, _ in pairs) if pairs else None,
        ratio=_ratio(pairs) if pairs else None,
        psnr_db=min(psnrs, default=None),
        kept=tuple(sum(of) / pixels for of in zip(*kept, strict=True)) if kept else None,
    )


def _ratio(pairs: Sequence[tuple[float, Summary]]) -> Summary:
    """The dense times together / what they are when each is divided by its ratio."""
    total = sum(dense for dense, _ in pairs)
    return Summary(
        total / sum(dense / ratio.median for dense, ratio in pairs),
        total / sum(dense / ratio.low for dense, ratio in pairs),
        total / sum(dense / ratio.high for dense, ratio in pairs),
    )
