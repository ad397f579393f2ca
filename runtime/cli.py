"""ppsr-run: make one picture larger."""

from __future__ import annotations

from pathlib import Path

import click

from ppsr.models.errors import UsageError

from .backend import Device
from .command import device_option, reports_errors, threads_option
from .files import is_one_of
from .image import Picture, check_picture_target, read_picture, write_picture
from .upscaler import Upscaler


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write; the suffix is the format: .png, .jpg, .webp, .tif. "
    "[default: beside IMAGE, with _x<scale> added to its name]",
)
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
    image: Path,
    output: Path | None,
    device: Device,
    threads: int | None,
    trust: bool,
    quiet: bool,
) -> None:
    """Make IMAGE larger with MODEL, an .onnx file or a .plan of ppsr-export.

    IMAGE is 8-bit RGB: PNG, JPEG, WebP or TIFF. Its orientation is applied and its colour profile
    kept; EXIF, GPS and XMP are dropped. An output that exists already is replaced; IMAGE itself
    never is.
    """
    picture = read_picture(image)
    with Upscaler.open(model, device, threads, trust) as up:
        target = output or image.with_name(f"{image.stem}_x{up.scale}{image.suffix}")
        height, width = picture.rgb.shape[:2]
        check_picture_target(target, (up.scale * height, up.scale * width))
        if is_one_of(target, [image]):
            raise UsageError(f"{target} is the input; choose another name with --output")
        result = up.upscale(picture.rgb)
        write_picture(target, Picture(result.rgb, picture.profile))
        if quiet:
            return
        sizes = ["{} x {}".format(*rgb.shape) for rgb in (picture.rgb, result.rgb)]
        parts = [
            f"{_name(image)} {sizes[0]} -> {_name(target)} {sizes[1]}",
            *([] if result.pure is None else [f"{100 * result.pure:.1f} % pure"]),
            f"{result.milliseconds:.0f} ms",
            up.device,
            f"{up.artefact.model} x{up.scale} {up.artefact.precision}",
        ]
        click.echo(" · ".join(parts))


def _name(path: Path) -> str:
    return click.format_filename(path, shorten=True)
