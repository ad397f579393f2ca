"""ppsr-export: from a checkpoint to verified ONNX files and engines."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ppsr.calibration.estimators import ESTIMATORS
from ppsr.models.config import MODEL_NAMES, SCALES
from ppsr.models.registry import DEFAULT_RATIO
from ppsr.runtime.command import reports_errors
from ppsr.runtime.sidecar import Size

from . import load_pipeline
from .flavour import why_no_engine
from .layers import summary
from .options import (
    ATTENTION_OPSET,
    CPU_TARGETS,
    DEFAULT_PROFILES,
    FORMS,
    OPSETS,
    TARGETS,
    ExportOptions,
    Profile,
)

if TYPE_CHECKING:
    from .graphs import Exported
    from .plans import Planned

Command = Callable[..., Any]


def _shape(_context: click.Context, _option: click.Parameter, value: str | None) -> Size | None:
    """Read HEIGHTxWIDTH."""
    if value is None:
        return None
    try:
        height, width = map(int, value.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"expected HEIGHTxWIDTH such as 360x640, got {value!r}") from None
    return height, width


def _shape_option(name: str, default: Size) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}-shape",
        metavar="HxW",
        show_default="of three profiles; with one given {}x{}".format(*default),
        callback=_shape,
        help=f"{name.capitalize()} LR size of the engine.",
    )


def _profiles(shapes: dict[str, Size | None]) -> tuple[Profile, ...]:
    """One profile of the shapes that were given; without any the default ones."""
    given = {name: shape for name, shape in shapes.items() if shape}
    return (Profile(**given),) if given else DEFAULT_PROFILES


@click.command(context_settings={"show_default": True})
@click.option("--scale", type=click.Choice([str(s) for s in SCALES]), default="2")
@click.option("--model", type=click.Choice(MODEL_NAMES), default=MODEL_NAMES[0])
@click.option(
    "--weights",
    metavar="FILE",
    default="default",
    show_default="the shipped ones",
    help="A .pth or .safetensors file of the network.",
)
@click.option(
    "--ratio",
    type=float,
    show_default=f"{DEFAULT_RATIO}",
    help="Share of the windows that attend (camixer-atd-light).",
)
@click.option("--fp16", is_flag=True, help="FP16 but for named FP32 islands; inputs stay FP32.")
@click.option(
    "--int8", is_flag=True, help="INT8 in linear layers and convolutions but the outermost."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ranges for --int8, written by an earlier export.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Ground-truth pictures to take the ranges for --int8 from.",
)
@click.option("--estimator", type=click.Choice(ESTIMATORS), default="mse", help="Of ranges.")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Each layer in its own precision, as ppsr-calibrate found.",
)
@click.option("--form", type=click.Choice(["both", *FORMS]), default="both")
@click.option(
    "--opset",
    type=click.Choice([str(opset) for opset in (*OPSETS, ATTENTION_OPSET)]),
    help=f"Of ONNX; {OPSETS[0]} unless given, {ATTENTION_OPSET} for onnxruntime's own graphs.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("artifacts"))
@click.option("--atol", type=float, default=1e-5, help="Largest FP32 difference allowed.")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="auto",
    help="ONNX files are always made; auto builds an engine too where a TensorRT is installed.",
)
@click.option("--inspect", is_flag=True, help="Write every layer of the engine with its precision.")
@click.option("--no-verify", is_flag=True, help="Do not run the files on real pictures.")
@_shape_option("min", Profile.min)
@_shape_option("opt", Profile.opt)
@_shape_option("max", Profile.max)
@click.version_option(package_name="ppsr")
@reports_errors
def main(scale: str, opset: str | None, no_verify: bool, **values: Any) -> None:
    """Export a network to ONNX and TensorRT: traced, verified, described.

    Two forms: self-contained (any picture from 16 x 16 up -> picture, for any ONNX tool) and routed
    (padded picture and active tokens -> picture, what engines are built from).
    """
    profiles = _profiles({name: values.pop(f"{name}_shape") for name in ("min", "opt", "max")})
    options = ExportOptions(
        scale=int(scale),
        opset=None if opset is None else int(opset),
        verify=not no_verify,
        profiles=profiles,
        **values,
    )
    console = Console()
    bar = Progress(
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        console=console,
        transient=True,
    )

    @contextmanager
    def progress(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        with bar if stage.startswith("build") else console.status(f"{stage} ..."):
            yield
        console.print(f"{time.perf_counter() - start:7.1f} s  {stage}", highlight=False)

    def on_phase(phase: str, done: float) -> bool:
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(phase)
        bar.update(task, description=phase, completed=100 * done)
        return True

    export = load_pipeline().export_model(options, progress, on_phase)
    if options.target in CPU_TARGETS and options.tuning == "any":
        _tell(console, f"{options.model} has no graph for {options.target}: made for any runtime.")
    for made in export.models:
        _describe(console, made)
    if export.ranges:
        _tell(console, f"\n{export.ranges}: the ranges, for --calibration")
    if export.plan:
        _describe_plan(console, export.plan)
    else:
        _tell(console, f"\n{why_no_engine(options.target)}")
    path = shlex.quote(str(export.models[0].path))
    _tell(console, f"Next: ppsr-run {path} photo.jpg")


def _tell(console: Console, text: str) -> None:
    """Print a line as it is: rich takes 'ppsr[rtx]' for one of its tags."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _describe(console: Console, made: Exported) -> None:
    size = made.path.stat().st_size / 1e6
    _tell(console, f"\n{made.path}  {size:.2f} MB")
    if made.artefact.form == "routing":
        console.print("finds the active tokens of a padded picture, for loaders of your own")
        return
    if not made.parity:
        console.print("not verified")
        return
    table = Table("picture", "active", "PSNR", "flipped", "max difference", "ties", box=None)
    for parity in made.parity:
        table.add_row(
            f"{parity.height} x {parity.width}",
            str(parity.active),
            f"{parity.psnr:.1f} dB",
            f"{100 * parity.flipped:.1f} %",
            f"{parity.max_abs:.1e}",
            str(parity.ties),
        )
    console.print(table)
    if peaks := [parity.peak for parity in made.parity if parity.peak is not None]:
        console.print(f"largest FP16 value {max(peaks):.0f} (FP16 holds 65504)", highlight=False)


def _describe_plan(console: Console, made: Planned) -> None:
    size = len(made.files[made.path]) / 1e6
    _tell(console, f"\n{made.path}  {size:.2f} MB")
    _tell(console, summary(made.layers))
    table = Table("profile", "from", "best at", "up to", "active tokens", box=None)
    for number, profile in enumerate(made.sidecar.profiles):
        sizes = (f"{h} x {w}" for h, w in (profile.min, profile.opt, profile.max))
        tokens = " - ".join(map(str, profile.tokens[::2])) if profile.tokens else "all"
        table.add_row(str(number), *sizes, tokens)
    console.print(table)
