"""ppsr-verify: re-prove a published model file against the network, or against another file."""

from __future__ import annotations

import json
import math
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ppsr.models.errors import ParityError, UsageError
from ppsr.runtime import bench
from ppsr.runtime.command import device_option, reports_errors, threads_option
from ppsr.runtime.dataset import find_pictures
from ppsr.runtime.files import check_target, is_one_of, write_atomically
from ppsr.runtime.sidecar import sidecar_path

from . import load_reproof

if TYPE_CHECKING:
    from .proof import Figures, Proof

COLUMNS = ("between", "max diff", "equal cat.", "flipped", "mask", "truth", "drop")


@click.command()
@click.argument("artefact", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="A folder of ground truth, or one picture; may be given several times.  "
    "[default: crops of the sample photo]",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="The checkpoint ARTEFACT was made from.  [default: the shipped one]",
)
@click.option(
    "--max-psnr-drop",
    type=float,
    metavar="DB",
    help="What may be lost against ground truth.  "
    "[default: 0.01 for FP32, 0.02 for FP16, 0.05 for a recipe, 0.3 for INT8]",
)
@device_option
@threads_option
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all to this file.")
@click.option("--no-record", is_flag=True, help="Leave the sidecar as it is.")
@click.version_option(package_name="ppsr")
@reports_errors
def main(report: Path | None, no_record: bool, **values: Any) -> None:
    """Prove again that ARTEFACT, an exported .onnx or .plan, does what the network does.

    REFERENCE is another export of the same network, or a checkpoint; without one it is the network
    in torch, in FP32. The file must be the one that its sidecar describes. Pictures are shrunk as
    MATLAB's bicubic imresize does and run through both.

    "between" is the PSNR of the two outputs and "max diff" their largest difference, "equal cat."
    that difference once the network sorts tokens as the graph did (docs/parity.md), "flipped" the
    share of tokens sorted otherwise, "mask" the share of pixels routed alike, "truth" the
    artefact's PSNR against ground truth as ppsr-eval measures it, "drop" what the reference has
    more. Exit code 3: the artefact is not good enough, or is not the file that was published.
    """
    reproof = load_reproof()
    options = reproof.VerifyOptions(record=not no_record, **values)
    if report is not None:
        _check_report(report, options)
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with console.status("loading ...") as status:
        proof = reproof.reprove(options, lambda name: status.update(_shown(name)))
    _show(proof)
    if report is not None:
        content = {
            "command": ["ppsr-verify", *sys.argv[1:]],
            "machine": bench.machine(),
            "artefact": dict(proof.artefact),
            **proof.to_json(),
            "notes": list(proof.notes),
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(report, text.encode())
    if proof.failure is not None:
        raise ParityError(f"{options.artefact} fails: {proof.failure}")


def _check_report(report: Path, options: Any) -> None:
    """Raise UsageError where the report cannot be written, or is something that is read."""
    check_target(report)
    given = (options.artefact, options.reference, options.weights)
    files = [Path(path) for path in given if path is not None]
    pictures = [find_pictures(path) if path.is_dir() else [path] for path in options.data]
    beside = [sidecar_path(path) for path in files]
    inputs = [*files, *beside, *chain.from_iterable(pictures)]
    if is_one_of(report, inputs) or report.resolve() in [path.resolve() for path in beside]:
        raise UsageError(f"{report} is an input; choose another name with --json")


def _shown(name: str) -> Text:
    """As text, since rich takes "[a].png" for one of its tags."""
    return Text(f"{click.format_filename(name)} ...")


def _show(proof: Proof) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("picture", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for one in proof.figures:
        table.add_row(click.format_filename(one.picture), *_cells(one))
    Console(markup=False, emoji=False, highlight=False).print(table)
    for text in (
        f"artefact:  {_described(proof.artefact)}",
        f"reference: {_described(proof.reference)}",
        f"mean drop: PSNR {proof.drop:+.4f} dB (allowed: {proof.max_psnr_drop:g}), "
        f"SSIM {proof.ssim_drop:+.5f}; values not finite: {proof.overall()['not_finite']}",
        *(f"note: {click.format_filename(note)}" for note in proof.notes),
    ):
        click.echo(text)
    if proof.failure is None:
        click.echo("passed")


def _cells(one: Figures) -> tuple[str, ...]:
    return (
        "equal" if one.psnr == math.inf else f"{one.psnr:.1f}",
        f"{one.max_abs:.1e}",
        "" if one.same is None else f"{one.same.max_abs:.1e}",
        "" if one.flipped is None else f"{100 * one.flipped:.1f} %",
        "" if one.mask_agreement is None else f"{100 * one.mask_agreement:.4g} %",
        f"{one.artefact.psnr_y:.2f}",
        f"{one.drop:+.3f}",
    )


def _described(known: Any) -> str:
    parts = [known[key] for key in ("precision", "form", "device") if known[key]]
    parts.append(f"weights {known['weights_sha256'][:12]}")
    return f"{click.format_filename(known['name'])} ({', '.join(parts)})"
