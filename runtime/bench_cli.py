"""ppsr-bench: how fast models are on your machine and pictures, and what masking saves."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from ppsr.models.config import SCALES
from ppsr.models.errors import BackendUnavailable, UsageError

from .backend import Device
from .bench.inputs import DEFAULT_SIZE, find_files, size_option
from .bench.models import opened
from .bench.run import Request, measure_all
from .bench.show import show
from .bench.tables import print_tables
from .command import device_option, reports_errors, threads_option
from .files import check_target, is_one_of, replacing_all
from .open_model import without_device
from .sidecar import Size

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--against",
    "dense",
    metavar="DENSE",
    help="The dense model to compare with, else made like each MODEL.",
)
@click.option(
    "--data",
    type=FILE,
    multiple=True,
    metavar="PATH",
    help="A picture or a folder; may be given several times.  [default: crops of a sample photo]",
)
@click.option(
    "--size",
    "sizes",
    type=size_option,
    multiple=True,
    metavar="WxH",
    help="Time crops of this size instead of whole pictures; may be given several times.",
)
@click.option(
    "--shares",
    is_flag=True,
    help="Measure over the share of pure pixels, on crops of the first --size; needs --against.",
)
@click.option(
    "--scale",
    type=click.Choice([str(scale) for scale in SCALES]),
    help="Needed for the shipped weights (default).",
)
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@device_option
@threads_option
@click.option("--json", "json_file", type=FILE, help="Write all numbers to this file.")
@click.option("--csv", "csv_file", type=FILE, help="Write the rows to this file.")
@click.option("--plot", type=FILE, metavar="FILE.svg", help="Draw the curve of --shares.")
@click.option("--report", type=FILE, metavar="FILE.html", help="Write one page with all of it.")
@click.version_option(package_name="ppsr")
@reports_errors
def main(
    models: tuple[str, ...],
    dense: str | None,
    data: tuple[Path, ...],
    sizes: tuple[Size, ...],
    shares: bool,
    scale: str | None,
    runs: int,
    device: Device,
    threads: int | None,
    json_file: Path | None,
    csv_file: Path | None,
    plot: Path | None,
    report: Path | None,
) -> None:
    """Measure how fast each MODEL is, in turns.

    MODEL is a model file (.onnx, .plan), or a checkpoint as ppsr-eval takes it
    (pp-atd-light:default), run by torch. MODEL@cpu, MODEL@openvino or another of --device behind
    it run it there.

    In each round every model runs once, in an order that rotates, after a warm-up. Times are
    medians over the rounds and hold the model with its routing, not the reading of files. "ratio"
    is dense / model, taken within each round, so that a machine that slows down does not change
    it; "PSNR" lies between the output and the dense one's. Pixels are those of the input.

    \b
    What masking saves, over the share of pure pixels, as a page:
      ppsr-bench MASKED --against DENSE --shares --report bench.html
    """
    paths = find_files(data)
    targets = {"--json": json_file, "--csv": csv_file, "--plot": plot, "--report": report}
    names = [*models, *([dense] if dense else [])]
    bare = [without_device(name) for name in names]
    files = [Path(part) for name in bare for part in (name, name.rpartition(":")[2])]
    _check_targets(targets, [*files, *paths.values()])
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(
            f"the curve is drawn as SVG: expected a name that ends in .svg, got {plot}"
        )
    if shares and dense is None:
        raise UsageError("--shares compares with a dense model; name one with --against")
    if plot is not None and not shares:
        raise UsageError("--plot draws the curve of --shares; give both")
    if plot is not None or report is not None:
        _require_drawing()
    request = Request(
        paths=paths,
        sizes=sizes or ((DEFAULT_SIZE,) if not data or shares else ()),
        whole=bool(data) and not sizes,
        shares=shares,
        runs=runs,
        device=device,
        threads=threads,
        scale=None if scale is None else int(scale),
        command=_command(),
    )
    with opened(models, dense, device, threads, request.scale) as (loaded, against):
        with _status() as say:
            found, inputs = measure_all(loaded, against, request, say)
        print_tables(found)
        contents: dict[Path, str] = {}
        if json_file is not None:
            contents[json_file] = found.to_json()
        if csv_file is not None:
            contents[csv_file] = found.to_csv()
        if plot is not None:
            from .bench.figures import curve_file

            contents[plot] = curve_file(found.curves)
        if report is not None:
            from .bench.page import page

            everyone = [*loaded, *([against] if against else [])]
            contents[report] = page(found, show(everyone, inputs))
    with replacing_all(list(contents)) as temporaries:
        for temporary, text in zip(temporaries, contents.values(), strict=True):
            temporary.write_bytes(text.encode(errors="surrogateescape"))


def _require_drawing() -> None:
    """Raise BackendUnavailable before anything is measured, not after."""
    try:
        from .bench import figures, page  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            "--plot and --report need matplotlib and jinja2: pip install 'ppsr[report]'"
        ) from error


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Show what is being measured, on a terminal only -> what to call with it."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        yield lambda text: None
        return
    # Drawn when it changes, hardly in between: drawing takes time from what is measured.
    with console.status("", refresh_per_second=0.5) as status:
        yield lambda text: status.update(Text(click.format_filename(text)))


def _check_targets(targets: Mapping[str, Path | None], inputs: Sequence[Path]) -> None:
    """Raise UsageError where an output cannot be written, or is an input or another output."""
    taken: dict[str, str] = {}
    described = [path.with_name(f"{path.name}.json") for path in inputs if path.name]
    for option, target in targets.items():
        if target is None:
            continue
        check_target(target)
        if is_one_of(target, [*inputs, *described]):
            raise UsageError(f"{target} is an input; choose another name with {option}")
        other = taken.setdefault(os.path.realpath(target), option)
        if other != option:
            raise UsageError(f"{target} is given to both {other} and {option}; choose two names")


def _command() -> tuple[str, ...]:
    """Return what was typed, but files by their names: a report tells nothing of folders."""
    context = click.get_current_context()
    words = ["ppsr-bench"]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        source = context.get_parameter_source(option.name or "")
        if source is not ParameterSource.COMMANDLINE or value is None:
            continue
        flags = option.opts[:1] if isinstance(option, click.Option) else []
        if value is True:
            words += flags
            continue
        for one in value if option.multiple or option.nargs == -1 else [value]:
            words += [*flags, _word(one)]
    return tuple(words)


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return "{1}x{0}".format(*value)
    return re.split(r"[/\\]", str(value).rstrip("/"))[-1] or "."
