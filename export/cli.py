"""ppsr-export: from a checkpoint to verified ONNX files."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ppsr.models.config import MODEL_NAMES, SCALES
from ppsr.runtime.command import reports_errors

from . import load_pipeline
from .engine import why_no_engine
from .options import FORMS, OPSETS, ExportOptions, Profile, Size

if TYPE_CHECKING:
    from .pipeline import Exported

Command = Callable[..., Any]


def _shape(_context: click.Context, _option: click.Parameter, value: str) -> Size:
    """Read HEIGHTxWIDTH."""
    try:
        height, width = map(int, value.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"expected HEIGHTxWIDTH such as 360x640, got {value!r}") from None
    return height, width


def _shape_option(name: str, default: Size) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}-shape",
        metavar="HxW",
        default="{}x{}".format(*default),
        callback=_shape,
        help=f"{name.capitalize()} LR size of a later engine.",
    )


@click.command(context_settings={"show_default": True})
@click.option("--scale", type=click.Choice([str(s) for s in SCALES]), default="2")
@click.option("--model", type=click.Choice(MODEL_NAMES), default=MODEL_NAMES[0])
@click.option(
    "--weights",
    metavar="FILE",
    default="default",
    show_default="the shipped ones",
    help="A .pth or .safetensors file of ATD-light v1.",
)
@click.option("--fp16", is_flag=True, help="FP16 but for named FP32 islands; inputs stay FP32.")
@click.option("--form", type=click.Choice(["both", *FORMS]), default="both")
@click.option("--opset", type=click.Choice([str(o) for o in OPSETS]), default=str(OPSETS[0]))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("artifacts"))
@click.option("--atol", type=float, default=1e-5, help="Largest FP32 difference allowed.")
@click.option("--no-verify", is_flag=True, help="Do not run the files on real pictures.")
@_shape_option("min", Profile.min)
@_shape_option("opt", Profile.opt)
@_shape_option("max", Profile.max)
@click.version_option(package_name="ppsr")
@reports_errors
def main(scale: str, opset: str, no_verify: bool, **values: Any) -> None:
    """Export PP-ATD-light or ATD-light to ONNX: traced, simplified, verified, described.

    Two forms: self-contained (any picture from 16 x 16 up -> picture, for any ONNX tool) and routed
    (padded picture and active tokens -> picture, what engines are built from).
    """
    profile = Profile(*(values.pop(f"{name}_shape") for name in ("min", "opt", "max")))
    options = ExportOptions(
        scale=int(scale), opset=int(opset), verify=not no_verify, profile=profile, **values
    )
    console = Console()

    @contextmanager
    def progress(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        with console.status(f"{stage} ..."):
            yield
        console.print(f"{time.perf_counter() - start:7.1f} s  {stage}", highlight=False)

    exported = load_pipeline().export_model(options, progress)
    for made in exported:
        _describe(console, made)
    console.print(why_no_engine(), highlight=False, soft_wrap=True)
    path = shlex.quote(str(exported[0].path))
    console.print(f"Next: ppsr-run {path} photo.jpg", highlight=False, soft_wrap=True)


def _describe(console: Console, made: Exported) -> None:
    size = made.path.stat().st_size / 1e6
    console.print(f"\n{made.path}  {size:.2f} MB", highlight=False, soft_wrap=True)
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
