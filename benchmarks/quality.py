"""What the shipped weights reach, beside the papers: measured into JSON, printed as a page.

    python benchmarks/quality.py measure ../shared/data/eval
    python benchmarks/quality.py page

``measure`` keeps one JSON a scale and set in ``benchmarks/results/quality`` and leaves out what is
there for the same weights; ``page`` writes ``docs/quality.md`` and ``docs/training.svg`` from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from ppsr.models.config import SCALES, PurePass
from ppsr.models.factory import build
from ppsr.runtime import bench
from ppsr.runtime.command import reports_errors
from ppsr.runtime.dataset import find_sets
from ppsr.runtime.eager import EagerBackend
from ppsr.runtime.evaluation import Method, evaluate
from ppsr.runtime.files import write_atomically
from ppsr.runtime.methods import bicubic
from ppsr.runtime.upscaler import Upscaler
from ppsr.runtime.versions import installed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/quality"
SETS = ("Set5", "Set14", "B100")
ROUTINGS: dict[str, PurePass | None] = {
    "mask": PurePass(),
    "no mask": None,
    "no shift": PurePass(shift=0),
    "no compensation": PurePass(compensation=False),
}


@click.group()
def main() -> None:
    """Measure the shipped weights and write the page about them."""


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--scale", "scales", type=click.Choice(SCALES), multiple=True, default=SCALES)
@click.option("--set", "sets", type=click.Choice(SETS), multiple=True, default=SETS)
@reports_errors
def measure(data: Path, scales: tuple[int, ...], sets: tuple[str, ...]) -> None:
    """Measure bicubic and the network with each routing on the folders of DATA."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for scale in scales:
        digest = build("pp-atd-light", scale).weights_sha256
        for name in sets:
            target = RESULTS / f"x{scale}_{name}.json"
            if target.exists() and _digest(json.loads(target.read_text())) == digest:
                continue
            with ExitStack() as stack:
                methods = list(_methods(scale, stack))
                found = evaluate(methods, find_sets([data / name]), scale)
            content = {
                "machine": bench.machine(),
                "versions": installed(("ppsr", "numpy", "torch")),
                **found.to_json(),
            }
            write_atomically(target, (json.dumps(content, indent=1) + "\n").encode())
            click.echo(f"{target.relative_to(ROOT)}: {found.means(name)[1].psnr_y:.3f} dB")


@main.command()
@reports_errors
def page() -> None:
    """Write docs/quality.md and docs/training.svg from the results that are there."""
    from quality_page import curve, write

    write(ROOT / "docs/quality.md", read(RESULTS))
    click.echo(f"docs/quality.md, {curve(ROOT / 'docs/training.svg')}")


def read(folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Return the results that are there, by scale and set."""
    files = {(s, name): folder / f"x{s}_{name}.json" for s in SCALES for name in SETS}
    return {key: json.loads(path.read_text()) for key, path in files.items() if path.exists()}


def _methods(scale: int, stack: ExitStack) -> Iterator[Method]:
    yield Method("bicubic", partial(bicubic, scale=scale), {"weights_sha256": None})
    for name, routing in ROUTINGS.items():
        backend = EagerBackend(
            "default",
            model="pp-atd-light" if routing else "atd-light",
            scale=scale,
            pure_pass=routing,
        )
        upscaler = stack.enter_context(Upscaler(backend))
        identity = {"weights_sha256": upscaler.artefact.weights_sha256, "device": upscaler.device}
        yield Method(name, upscaler.upscale, identity)


def _digest(result: dict[str, Any]) -> str:
    digest: str = result["methods"][1]["weights_sha256"]
    return digest


if __name__ == "__main__":
    main()
