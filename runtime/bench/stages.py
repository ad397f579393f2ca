"""Where the time goes from file to file: decode, routing, network, conversion, encode."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from ppsr.runtime.pictures.decode import open_picture
from ppsr.runtime.pictures.encode import PictureWriter, choose_encoding
from ppsr.runtime.sidecar import Size

from .models import Model
from .timing import Summary, in_turns, summarise

STAGES: Final = ("decode", "routing", "network", "conversion", "encode")
"""In their order. Conversion is padding, floats and back, and blending where there are tiles."""

Times = Mapping[str, float | None]
"""Milliseconds by stage; routing is None where the graph routes itself: the network holds it."""


@dataclass(frozen=True)
class Stages:
    """One model on one file, round by round."""

    model: str
    picture: str
    size: Size
    """H W of the input."""
    tiles: int
    """1: as a whole."""
    rounds: tuple[Times, ...]

    def of(self, stage: str) -> Summary | None:
        """Return what a stage takes, milliseconds; None where it is unknown."""
        known = [value for times in self.rounds if (value := times[stage]) is not None]
        return summarise(known) if len(known) == len(self.rounds) else None

    @property
    def total(self) -> Summary:
        """From file to file, one stage after the other, milliseconds."""
        return summarise([sum(value or 0 for value in times.values()) for times in self.rounds])

    def to_json(self) -> dict[str, Any]:
        """Spell it for JSON, milliseconds."""
        stages = {name: self.of(name) for name in STAGES}
        return {
            "model": self.model,
            "picture": self.picture,
            "size": self.size,
            "tiles": self.tiles,
            "stages": {name: one and asdict(one) for name, one in stages.items()},
            "total": asdict(self.total),
        }


def measure_stages(models: Sequence[Model], path: Path, name: str, runs: int) -> list[Stages]:
    """Read the file at ``path``, make it larger and write a PNG, with all models in turns.

    ``name``: what the picture is called. A picture that does not fit into memory is cut into tiles,
    as ppsr-run does. ppsr-run lets the stages of many pictures overlap; here they do not. Raises
    PpsrError where a model, the picture or the disc fails.
    """
    seen: dict[int, tuple[Size, int]] = {}
    with TemporaryDirectory(prefix="ppsr-bench-") as folder:

        def runner(at: int) -> Callable[[], Times]:
            def run() -> Times:
                times, seen[at] = _once(models[at], path, Path(folder, "larger.png"))
                return times

            return run

        found = in_turns(
            [runner(at) for at in range(len(models))], runs, [model.warm_up for model in models]
        )
    return [
        Stages(model.name, name, *seen[at], rounds)
        for at, (model, rounds) in enumerate(zip(models, found, strict=True))
    ]


def _once(model: Model, path: Path, target: Path) -> tuple[Times, tuple[Size, int]]:
    start = time.perf_counter()
    with open_picture(path) as picture:
        pixels = picture.rows(0, picture.shape[0])
        encoding = choose_encoding(
            "png", picture, scale=model.upscaler.scale, depth=None, quality=None
        )
    decoded = time.perf_counter()
    result = model.upscaler.upscale(pixels, np.dtype(encoding.dtype))
    upscaled = time.perf_counter()
    height, width, channels = result.pixels.shape
    with PictureWriter(target, (height, width, channels), encoding, None) as writer:
        writer.write(result.pixels)
    encoded = time.perf_counter()
    routing = result.routing_milliseconds
    times = {
        "decode": 1000 * (decoded - start),
        "routing": routing,
        "network": result.milliseconds - (routing or 0),
        "conversion": max(0.0, 1000 * (upscaled - decoded) - result.milliseconds),
        "encode": 1000 * (encoded - upscaled),
    }
    return times, ((pixels.shape[0], pixels.shape[1]), result.tiles)
