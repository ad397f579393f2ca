"""ppsr-calibrate: find which layers may leave FP32 for a given loss, and write it as a recipe."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ppsr.calibration.estimators import ESTIMATORS
from ppsr.models.config import MODEL_NAMES, SCALES
from ppsr.runtime.command import INTERRUPTED, reports_errors, threads_option

from . import load_calibrate

if TYPE_CHECKING:
    from .calibrate import Calibrated, CalibrateOptions

SAVES = ("time", "bytes")
COLUMNS = ("layers", "in", "PSNR", "drop", "flipped", "chosen")


@click.command(context_settings={"show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="A folder of ground-truth pictures; those below it are taken too.",
)
@click.option(
    "--max-psnr-drop",
    type=float,
    default=0.05,
    metavar="DB",
    help="What the mix may lose against ground truth, on pictures held out.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("recipe.toml"))
@click.option("--scale", type=click.Choice(SCALES), default=SCALES[0])
@click.option("--model", type=click.Choice(MODEL_NAMES), default=MODEL_NAMES[0])
@click.option(
    "--weights",
    metavar="FILE",
    default="default",
    show_default="the shipped ones",
    help="A .pth or .safetensors file of the network.",
)
@click.option("--ratio", type=float, help="Share of the windows that attend (camixer-atd-light).")
@click.option(
    "--estimator",
    type=click.Choice(ESTIMATORS),
    default="mse",
    help="How the range of an activation follows from its values.",
)
@click.option(
    "--crops",
    type=click.IntRange(min=1),
    default=16,
    help="To measure layers on; as many other pictures are held out to try mixes on.",
)
@click.option("--save", type=click.Choice(SAVES), default="time", help="What the mix is to save.")
@click.option("--fp16/--no-fp16", default=True, help="Whether layers may move to FP16 too.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default="OUTPUT.journal.json",
    help="Where measurements are kept: the same command goes on where it was stopped.",
)
@threads_option
@click.version_option(package_name="ppsr")
@reports_errors
def main(**values: Any) -> None:
    """Find which layers run in INT8 or FP16 for a loss of at most so many dB; write a recipe.

    Ranges of activations and the error of each group of layers come from crops of half of the
    pictures; mixes are tried on the others, whole or in large parts. All are shrunk as MATLAB's
    bicubic imresize does. What a mix saves is worked out, not timed: a number of 8 bits is taken to
    cost a quarter of one of 32.

    "PSNR" is between the outputs with that group alone in that precision and those in FP32, "drop"
    what it loses against ground truth, "flipped" the share of tokens in another category. Exit code
    3: not even one group may leave FP32.
    """
    calibrate = load_calibrate()
    options = calibrate.CalibrateOptions(**values)
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    try:
        with console.status("loading ...") as status:
            made = calibrate.calibrate(options, lambda text: status.update(f"{text} ..."))
    except KeyboardInterrupt:
        click.echo(
            f"stopped; {options.journal} keeps what was measured, the same command goes on",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    _show(made, options)


def _show(made: Calibrated, options: CalibrateOptions) -> None:
    """Print what each group costs, what was tried, and what came of it."""
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    found = made.found
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, no_wrap=True)
    for one in found.sensitivities:
        chosen = found.chosen.get(one.group) == one.precision
        table.add_row(
            one.group,
            one.precision,
            f"{one.psnr:.2f}",
            f"{one.psnr_drop:.4f}",
            _share(one.flipped),
            "yes" if chosen else "",
        )
    console.print(table)
    console.print("\ntried on pictures held out, least error per saving first:")
    for trial in found.trials:
        but = f" but {len(trial.refused)}" if trial.refused else ""
        console.print(
            f"{trial.moves:3d} of {len(found.order)} moves{but}: drop {trial.psnr_drop:.4f} dB, "
            f"PSNR {trial.psnr:.2f} dB, flipped {_share(trial.flipped)}"
            f"{', chosen' if trial == found.best else ''}"
        )
    if found.refused:
        console.print(f"refused: {', '.join(f'{name} in {to}' for name, to in found.refused)}")
    numbers = Counter(made.precisions.values())
    layers = ", ".join(f"{numbers[name]} in {name}" for name in ("int8", "fp16", "fp32"))
    console.print(f"\n{options.output}: {len(made.precisions)} layers, {layers}")
    what = "multiply-adds of layers, by width" if options.save == "time" else "bytes of weights"
    console.print(
        f"saves {100 * found.saved:.1f} % of the {what}; loses {found.best.psnr_drop:.4f} dB "
        f"(allowed: {options.max_psnr_drop:g})"
    )
    console.print(
        f"ranges by {options.estimator} from {made.ranges.images} crops; "
        f"layers measured on {made.held_in}, mixes on {made.held_out} held out"
    )
    recipe = shlex.quote(str(options.output))
    scale = f"--scale {options.scale} --model {options.model}"
    scale += "" if options.ratio is None else f" --ratio {options.ratio:g}"
    weights = (
        "" if options.weights == "default" else f" --weights {shlex.quote(str(options.weights))}"
    )
    console.print(f"Next: ppsr-export {scale}{weights} --recipe {recipe}")


def _share(flipped: float | None) -> str:
    return "-" if flipped is None else f"{100 * flipped:.2f} %"
