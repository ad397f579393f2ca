"""ppsr-run: make pictures larger."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from ppsr.models.errors import UsageError

from .backend import Device
from .batch.inputs import find_inputs
from .batch.jobs import plan
from .batch.loading import Options
from .batch.names import FIELDS, FORMATS, TEMPLATE, Naming
from .batch.pipeline import run_batch
from .batch.reports import Report, Style
from .command import auto_or_number, device_option, memory_size, reports_errors, threads_option
from .pictures.decode import MAX_PIXELS
from .pictures.encode import Depth, require_quality
from .tiles import Tiling
from .upscaler import Upscaler


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", type=click.Path(), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="A file, a folder (of several inputs, or with / at its end), or - for standard output. "
    "[default: beside each IMAGE, with _x<scale> added to its name]",
)
@click.option("-s", "--scale", type=int, help="Refuse a MODEL of another scale.")
@click.option("--recursive", is_flag=True, help="Look into the folders in a folder, too.")
@click.option("--skip-existing", is_flag=True, help="Leave what is made already; so resume.")
@click.option("--keep-going", is_flag=True, help="Go on after a failed picture; exit code 5.")
@click.option(
    "--name",
    "template",
    metavar="TEMPLATE",
    help=f"Name of each output, of {', '.join(f'{{{field}}}' for field in FIELDS)}.  "
    f"[default: {TEMPLATE}]",
)
@click.option(
    "-f",
    "--format",
    "file_format",
    type=click.Choice(list(FORMATS)),
    help="Format of the outputs.  [default: that of the name, or of the input]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of JPEG, WebP and AVIF; 100 is not lossless.  [default: JPEG 95, others lossless]",
)
@click.option(
    "--depth",
    type=click.Choice(["8", "16", "float"]),
    help="Bits of a channel.  [default: those of the input, where the format holds them]",
)
@click.option(
    "-t",
    "--tile",
    type=auto_or_number,
    metavar="auto|N",
    help="Side of a tile in input pixels, or auto.",
)
@click.option(
    "--overlap", type=auto_or_number, metavar="auto|N", help="Pixels that tiles share, or auto."
)
@click.option(
    "--max-memory",
    type=memory_size,
    metavar="SIZE",
    help="Like 4G or 512M.  [default: what is free]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=MAX_PIXELS,
    show_default=True,
    help="Refuse larger inputs.",
)
@click.option("--mask", type=click.Path(), help="Show what is skipped; a file, or a folder.")
@click.option("--compare", type=click.Path(), help="Bicubic beside ours; a file, or a folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each picture.")
@click.option("--no-progress", is_flag=True, help="Show no bar, not even on a terminal.")
@device_option
@threads_option
@click.option(
    "--trust",
    is_flag=True,
    help="Run a .plan without its .json beside it. A plan is code: only one that you built.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing when all went well.")
@click.version_option(package_name="ppsr")
@reports_errors
def main(
    model: Path,
    images: tuple[str, ...],
    output: str | None,
    scale: int | None,
    recursive: bool,
    skip_existing: bool,
    keep_going: bool,
    template: str | None,
    file_format: str | None,
    quality: int | None,
    depth: Depth | None,
    tile: int | None,
    overlap: int | None,
    max_memory: int | None,
    max_pixels: int,
    mask: str | None,
    compare: str | None,
    as_json: bool,
    no_progress: bool,
    device: Device,
    threads: int | None,
    trust: bool,
    quiet: bool,
) -> None:
    """Make IMAGE larger with MODEL, an .onnx file or a .plan of ppsr-export.

    IMAGE is a picture, a folder, a pattern like "*.png", or - for standard input; several are
    done with one MODEL. PNG, JPEG, WebP, TIFF, AVIF and HEIC are read, of 8 or 16 bits or float,
    in grey, RGB or CMYK, with or without alpha. Orientation is applied; colour profile, EXIF,
    resolution and text are kept where the output format holds them.

    An output that exists already is replaced; an IMAGE never is. Outputs appear when they are
    whole, so what was stopped or killed is resumed with --skip-existing.

    Exit codes: 0 all is well, 1 something failed, 2 an option or a picture is wrong, 4 a backend
    is missing, 5 some pictures failed and --keep-going went on, 130 interrupted.
    """
    naming = Naming(output, template, file_format, mask, compare)
    if naming.to_stream and as_json:
        raise UsageError("--json and --output - both want standard output; choose one")
    if naming.to_stream and sys.stdout.isatty():
        raise UsageError("standard output is a terminal; redirect it, or name a file with --output")
    options = Options(
        tiling=Tiling(tile, overlap, max_memory),
        depth=depth,
        quality=quality,
        max_pixels=max_pixels,
        keep_going=keep_going,
    )
    inputs = find_inputs(
        images, recursive=recursive, leave_out=naming.folders, keep_missing=keep_going
    )
    naming.require(inputs)
    with Upscaler.open(model, device, threads, trust) as up:
        if scale not in (None, up.scale):
            raise UsageError(f"expected a model for x{scale}, got {model} for x{up.scale}")
        if mask is not None and not up.artefact.tells_skipped:
            raise UsageError(
                f"{model} ({up.artefact.label}) tells nothing of what it skips: no mask to show"
            )
        jobs = plan(
            inputs, naming, scale=up.scale, model=up.artefact.model, skip_existing=skip_existing
        )
        for job in jobs:
            if job.skip is None and job.format is not None:
                require_quality(job.format, quality)
        about = f"{up.device} · {up.artefact.model} x{up.scale} {up.artefact.precision}"
        silent = quiet or naming.to_stream
        style: Style = "machines" if as_json else "nobody" if silent else "people"
        with (
            Report(
                jobs, style, about, keep_going=keep_going, bar=not (no_progress or quiet)
            ) as report,
            closing(run_batch(jobs, up, options, report.advance)) as outcomes,
        ):
            for outcome in outcomes:
                report.tell(outcome)
        report.conclude()
