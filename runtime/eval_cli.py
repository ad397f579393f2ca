"""ppsr-eval: PSNR and SSIM against ground truth, as the papers measure them."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ppsr.models.config import MODEL_NAMES, SCALES, ModelName, PurePass
from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import SHIFT

from . import bench
from .backend import Device
from .command import device_option, reports_errors, threads_option
from .dataset import PictureSet, find_sets
from .eval_table import show
from .evaluation import Evaluation, Row, evaluate
from .files import check_target, is_one_of, replacing_all
from .methods import Options, opened, parse_all
from .versions import installed

PACKAGES = bench.PACKAGES


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL [MODEL]")
@click.option(
    "--data",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="DIR",
    help="A folder of ground-truth pictures; may be given several times.",
)
@click.option(
    "--scale",
    type=click.Choice([str(scale) for scale in SCALES]),
    help="Needed where no MODEL says it: for bicubic and default.",
)
@click.option(
    "--model",
    "name",
    type=click.Choice(MODEL_NAMES),
    default=MODEL_NAMES[0],
    show_default=True,
    help="What a checkpoint is run as, without a name before it; atd-light has no mask.",
)
@click.option(
    "--ratio", type=float, help="Checkpoints: share of the windows that attend (camixer-atd-light)."
)
@click.option("--no-shift", is_flag=True, help="Checkpoints: leave out the shifted grid.")
@click.option("--no-compensation", is_flag=True, help="Checkpoints: pure pixels get zeros instead.")
@click.option("--limit", type=click.IntRange(min=1), help="Pictures of each folder, by name.")
@device_option
@threads_option
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all to this file.")
@click.option("--csv", "rows", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.version_option(package_name="ppsr")
@reports_errors
def main(
    models: tuple[str, ...],
    folders: tuple[Path, ...],
    scale: str | None,
    name: ModelName,
    ratio: float | None,
    no_shift: bool,
    no_compensation: bool,
    limit: int | None,
    device: Device,
    threads: int | None,
    report: Path | None,
    rows: Path | None,
) -> None:
    """Measure MODEL against ground truth, as the papers do; two of them also against each other.

    \b
    MODEL is one of
      bicubic                    the baseline
      FILE.onnx, FILE.plan       an exported model
      FILE.pth, .safetensors     a checkpoint, run by torch
      default                    the shipped weights, run by torch
      pp-atd-light:CHECKPOINT    with the mask
      atd-light:CHECKPOINT       without it
      NAME:CHECKPOINT            as another network

    What the mask costs: ppsr-eval atd-light:default pp-atd-light:default --scale 2 --data Set5

    The picture is cut to a multiple of the scale, shrunk as MATLAB's bicubic imresize does, made
    larger, and compared: luma (BT.601) rounded to integers, as many border pixels as the scale
    left out. "not rounded" keeps the luma's fractions, as some papers' code does. Grey pictures
    are taken as RGB of three equal channels. "B - A" is what the second has more than the first;
    "pure" is the share of pixels that the mask skips, of a set over all its pixels.
    """
    if len(models) > 2:
        raise UsageError(f"expected one model or two, got {len(models)}")
    options = Options(
        scale=None if scale is None else int(scale),
        model=name,
        pure_pass=PurePass(shift=0 if no_shift else SHIFT, compensation=not no_compensation),
        ratio=ratio,
        device=device,
        threads=threads,
    )
    requests = parse_all(models, options)
    sets = find_sets(folders, limit)
    inputs = [request.path for request in requests if request.path is not None]
    _check_targets(report, rows, [*inputs, *(path for one in sets for path in one.paths)])
    with opened(requests, options) as (common, methods), _progress(sets, len(methods)) as advance:
        evaluation = evaluate(methods, sets, common, advance)
    show(evaluation)
    _write(report, rows, evaluation, {"limit": limit, "threads": threads})


@contextmanager
def _progress(sets: Iterable[PictureSet], methods: int) -> Iterator[Any]:
    """Show how far it is, on a terminal only -> what to call after each row."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
    )
    total = methods * sum(len(one.paths) for one in sets)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("reading", total=total)

        def advance(row: Row) -> None:
            picture = click.format_filename(row.picture)
            progress.update(task, advance=1, description=f"{row.set} {picture}")

        yield advance


def _check_targets(report: Path | None, rows: Path | None, inputs: Sequence[Path]) -> None:
    """Raise UsageError where a report cannot be written, or is an input or the other report."""
    for target, option in ((report, "--json"), (rows, "--csv")):
        if target is None:
            continue
        check_target(target)
        if is_one_of(target, inputs):
            raise UsageError(f"{target} is an input; choose another name with {option}")
    if report and rows and os.path.realpath(report) == os.path.realpath(rows):
        raise UsageError(f"{report} is given to both --json and --csv; choose two names")


def _write(
    report: Path | None, rows: Path | None, evaluation: Evaluation, options: dict[str, Any]
) -> None:
    """Write both files, or none."""
    contents: dict[Path, bytes] = {}
    if report is not None:
        content = {
            "command": ["ppsr-eval", *sys.argv[1:]],
            **options,
            "machine": bench.machine(),
            "versions": {"python": platform.python_version(), **installed(PACKAGES)},
            **evaluation.to_json(),
        }
        contents[report] = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
    if rows is not None:
        contents[rows] = evaluation.to_csv().encode(errors="surrogateescape")
    with replacing_all(list(contents)) as temporaries:
        for temporary, data in zip(temporaries, contents.values(), strict=True):
            temporary.write_bytes(data)
