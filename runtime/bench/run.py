"""One run of ppsr-bench: everything that is measured, in its order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppsr.models.errors import UsageError
from ppsr.runtime.backend import Device
from ppsr.runtime.sidecar import Size

from .inputs import DEFAULT_SIZE, Input, choose, many_crops, one_file, read_all
from .machine import load, machine, versions
from .memory import measure_memory
from .models import Model
from .report import Report
from .rows import measure
from .shares import measure_curve
from .stages import measure_stages


@dataclass(frozen=True)
class Request:
    """What is measured, and how."""

    paths: Mapping[str, Path]
    """The pictures by name; none: the sample photo."""
    sizes: tuple[Size, ...] = (DEFAULT_SIZE,)
    """H W of the crops."""
    whole: bool = False
    """Time the pictures as they are; the first size is then for shares alone."""
    shares: bool = False
    runs: int = 5
    """Rounds that count."""
    device: Device = "auto"
    threads: int | None = None
    scale: int | None = None
    command: tuple[str, ...] = ()
    """For the report."""


def measure_all(
    models: Sequence[Model],
    dense: Model | None,
    request: Request,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Report, list[Input]]:
    """Measure -> the report, and what was timed.

    ``say`` is told what is being measured. Raises UsageError for sizes that fit in no picture and
    for shares without a dense model, PictureError, and PpsrError where a model fails.
    """
    if request.shares and dense is None:
        raise UsageError("shares need a dense model to compare with")
    everyone = [*models, *([] if dense is None else [dense])]
    load_before = load()
    pictures = read_all(request.paths)
    inputs = choose(pictures, request.sizes, request.whole)
    crops = many_crops(pictures, request.sizes[0]) if request.shares else []
    rows = measure(models, dense, inputs, request.runs, say)
    say("stages")
    given = next(iter(request.paths.items())) if request.whole else None
    with one_file(inputs[0], given and given[1]) as path:
        name = given[0] if given else inputs[0].name
        stages = measure_stages(everyone, path, name, request.runs)
    curves = []
    if dense is not None and request.shares:
        curves = [measure_curve(model, dense, crops, request.runs, say) for model in models]
    say("memory")
    largest = max(inputs, key=lambda one: one.size[0] * one.size[1])
    memory = measure_memory(everyone, largest, request.device, request.threads, request.scale)
    settings: dict[str, Any] = {
        "runs": request.runs,
        "warm_up": {model.name: model.warm_up for model in everyone},
        "threads": request.threads,
        "device": request.device,
        "machine": machine(),
        "load_before": load_before,
        "versions": versions(),
    }
    report = Report(
        command=request.command,
        settings=settings,
        models=tuple(model.to_json() for model in everyone),
        against=None if dense is None else dense.name,
        rows=tuple(rows),
        stages=tuple(stages),
        memory=tuple(memory),
        curves=tuple(curves),
    )
    return report, inputs
