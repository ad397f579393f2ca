"""ppsr-bench: what masking saves on your machine and pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from ppsr.models.errors import UsageError

from . import bench
from .backend import Device
from .command import device_option, reports_errors, threads_option
from .files import check_target, is_one_of, write_atomically
from .pictures.decode import read_rgb
from .upscaler import Upscaler

COLUMNS = ("size", "pure", "masked", "dense", "ratio", "routing", "PSNR")


@click.command()
@click.argument("masked", type=click.Path(path_type=Path))
@click.option(
    "--against",
    "dense",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DENSE",
    help="The dense model file to compare with, else made like MASKED.",
)
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@device_option
@threads_option
@click.option(
    "--json", "report", type=click.Path(path_type=Path), help="Write all numbers to this file."
)
@click.version_option(package_name="ppsr")
@reports_errors
def main(
    masked: Path,
    dense: Path,
    pictures: tuple[Path, ...],
    runs: int,
    device: Device,
    threads: int | None,
    report: Path | None,
) -> None:
    """Measure the model file MASKED against the dense one on PICTURES.

    Both run in turns after one warm-up each; times are medians and hold the model with its
    routing, not the reading of files. "ratio" is dense / masked, "routing" its part of the
    masked time (empty where the graph routes itself), "PSNR" lies between the two outputs. The
    last row adds up the times and has the PSNR of the worst picture.
    """
    if report is not None:
        check_target(report)
        if is_one_of(report, (masked, dense, *pictures)):
            raise UsageError(f"{report} is an input; choose another name with --json")
    loaded = [(path, read_rgb(path)) for path in pictures]
    with Upscaler.open(masked, device, threads) as a, Upscaler.open(dense, device, threads) as b:
        bench.require_comparable(a, b)
        names = [f"{up.artefact.stem} on {up.device}" for up in (a, b)]
        rows = [
            bench.measure(a, b, click.format_filename(path, shorten=True), rgb, runs)
            for path, rgb in loaded
        ]
    total = bench.total(rows)
    _show(rows, total, f"masked: {names[0]}\ndense: {names[1]}")
    if report is not None:
        content = {
            "command": ["ppsr-bench", *sys.argv[1:]],
            "masked": names[0],
            "dense": names[1],
            "runs": runs,
            "threads": threads,
            "machine": bench.machine(),
            "versions": bench.versions(),
            "rows": [row.to_json() for row in rows],
            "total": total.to_json(),
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(report, text.encode())


def _show(rows: Iterable[bench.Row], total: bench.Row, caption: str) -> None:
    table = Table(
        box=box.SIMPLE,
        caption=caption,
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("picture", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.picture, *_cells(row))
    table.add_section()
    table.add_row(total.picture, *_cells(total))
    Console(markup=False, emoji=False, highlight=False).print(table)
    faster, slower = ("masked", "dense") if total.ratio >= 1 else ("dense", "masked")
    click.echo(f"{faster} is {max(total.ratio, 1 / total.ratio):.2f} times as fast as {slower}")


def _cells(row: bench.Row) -> tuple[str, ...]:
    return (
        "{} x {}".format(*row.size) if row.size else "",
        "" if row.pure is None else f"{100 * row.pure:.1f} %",
        f"{row.masked_ms:.0f} ms",
        f"{row.dense_ms:.0f} ms",
        f"{row.ratio:.3f}",
        "" if row.routing_share is None else f"{100 * row.routing_share:.1f} %",
        f"{row.psnr_db:.2f} dB",
    )
