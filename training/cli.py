"""ppsr-train: train or fine-tune on a folder of pictures."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ppsr.models.config import MODEL_NAMES, SCALES
from ppsr.models.errors import BackendUnavailable, UsageError
from ppsr.runtime.command import INTERRUPTED, device_option, reports_errors

from .options import TrainOptions

if TYPE_CHECKING:
    from .journal import Row

DEFAULTS = TrainOptions(steps=1)


def _option(name: str, help: str, **settings: Any) -> Callable[..., Any]:
    """An option of the same name in ``TrainOptions``, with its default."""
    field = name.lstrip("-").replace("-", "_").split("/")[0]
    return click.option(
        name, default=getattr(DEFAULTS, field), show_default=True, help=help, **settings
    )


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the run, new.")
@click.option("--data", help="Folder of ground-truth pictures; those below it are taken too.")
@click.option("--validation", help="Folder of pictures to validate on, never trained on.")
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Go on with the run in this folder."
)
@_option("--scale", "Times larger.", type=click.Choice(SCALES))
@_option("--model", "Network.", type=click.Choice(MODEL_NAMES))
@_option("--ratio", "Share of the windows that attend (camixer-atd-light).", type=float)
@_option(
    "--init",
    '"default" (the shipped weights), "bicubic" (from nothing) or a checkpoint, also one of '
    "another scale.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Length of the run in steps.")
@click.option("--minutes", type=float, help="Or in minutes: the schedule ends when they are over.")
@_option("--patch", "Side of a low-resolution patch, a multiple of 16.")
@_option("--batch", "Patches in a step.")
@_option("--draws", "Take the most textured of so many random crops.")
@_option(
    "--optimiser",
    "Muon, with AdamW for all but matrices, or AdamW.",
    type=click.Choice(["muon", "adamw"]),
)
@_option("--rate", "Peak learning rate.")
@_option("--warm-up", "Steps in which the rate rises.")
@_option("--average", "Decay of the moving average of the weights.")
@_option("--weight-decay", "Weight decay.")
@_option(
    "--precision",
    "Of the network; the weights stay fp32.",
    type=click.Choice(["fp32", "tf32", "bf16"]),
)
@device_option
@_option("--compile/--no-compile", "Compile the network first: minutes, pays on CUDA.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the CPU.")
@_option("--seed", "Of patches and their order.")
@_option("--validate-minutes", "Time between two validations.")
@_option("--save-seconds", "Time between two saves of state.pt.")
@_option("--log-every", "Steps between two rows of log.csv.")
@click.version_option(package_name="ppsr")
@reports_errors
def main(output: Path | None, resume: Path | None, **values: Any) -> None:
    """Train a network on a folder of pictures.

    The folder of the run holds weights.safetensors (the averaged weights, for ppsr-export --weights
    and ppsr-eval), log.csv, curve.png, and state.pt, which --resume goes on from after Ctrl-C or a
    kill. Low resolution is made as papers make it: MATLAB's bicubic imresize.
    """
    try:
        from .journal import draw
        from .state import WEIGHTS
        from .trainer import new_run, resumed_run
    except ImportError as error:
        raise BackendUnavailable(f"{error.name} is missing: pip install 'ppsr[train]'") from error
    console = Console(stderr=True)
    with _bar(console, "reading pictures") as show:

        def on_picture(read: int, count: int) -> None:
            show(read / count, f"{read} of {count}")

        if resume is not None:
            _refuse_others([*values, "output"])
            trainer = resumed_run(resume, on_picture)
        elif output is None or values["data"] is None:
            raise UsageError("expected --data DIR and -o FOLDER for a new run, or --resume FOLDER")
        else:
            options = TrainOptions(**values)
            trainer = new_run(output, options, on_picture)
    with _stop_requests() as stopping, _bar(console, "training") as show:

        def on_row(row: Row) -> None:
            text = f"step {row.step} · loss {row.loss:.5f} · {row.images_per_second:.1f} patches/s"
            show(trainer.done, f"{text} · {row.waiting:.1%} waiting")
            if row.psnr_y is not None:
                click.echo(f"{row.minutes:.1f} min · {text} · validation {row.psnr_y:.3f} dB")

        finished = trainer.run(on_row, stopping)
    folder = trainer.folder
    if not finished:
        click.echo(f"stopped at step {trainer.step}; go on with: ppsr-train --resume {folder}")
        raise click.exceptions.Exit(INTERRUPTED)
    speed = trainer.step * trainer.options.batch / trainer.seconds
    click.echo(
        f"{folder / WEIGHTS} · {trainer.step} steps · {trainer.seconds / 60:.1f} min · "
        f"{speed:.1f} patches/s"
    )
    click.echo(f"the curve: {draw(folder)}")


def _refuse_others(names: Iterable[str]) -> None:
    """A resumed run goes on as it began: no other option may be given."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = name.replace("_", "-")
            raise UsageError(f"--resume goes on with the run's own options; drop --{option}")


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question asked between steps, so that a stop loses nothing."""
    asked = []

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.append(True)
        if len(asked) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar with the time left on a terminal, and nothing in a pipe."""
    columns = (
        TextColumn(title),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0, text="")
        yield lambda done, text: progress.update(task, completed=done, text=text)


if __name__ == "__main__":
    main()
