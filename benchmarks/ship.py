"""Make the weights of a training run the shipped ones, where they are better.

    python benchmarks/ship.py artifacts/x2 ../shared/data/eval

They must be better than the shipped ones on Set5 and on B100. The run's log and figures are kept in
``benchmarks/results/training``, for ``docs/quality.md``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import safetensors

from ppsr.models.checkpoint import read_checkpoint, weights_digest
from ppsr.models.config import PurePass
from ppsr.models.families import config_of
from ppsr.runtime.command import reports_errors
from ppsr.runtime.dataset import find_sets
from ppsr.runtime.eager import EagerBackend
from ppsr.runtime.evaluation import Method, evaluate
from ppsr.runtime.files import write_atomically
from ppsr.runtime.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "benchmarks/results/training"
DECIDING = ("Set5", "B100")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@reports_errors
def main(run: Path, data: Path) -> None:
    """Ship the weights of RUN, a folder of ppsr-train, if they beat the shipped ones on DATA.

    DATA holds the folders Set5 and B100.
    """
    new = run / "weights.safetensors"
    scale = config_of(read_checkpoint(new)).scale
    shipped = ROOT / f"models/pp_atd_light_x{scale}.safetensors"
    name = f"x{scale}_{len(list(RUNS.glob(f'x{scale}_*.json')))}"
    known = {record["weights_sha256"]: record for record in records()}
    figures = [_figures(file, data, known) for file in (shipped, new) if file.exists()]
    for one in figures:
        click.echo(f"{one['weights_sha256'][:12]}: {one['psnr_y']}")
    better = all(figures[-1]["psnr_y"][one] > figures[0]["psnr_y"][one] for one in DECIDING)
    if len(figures) == 2 and not better:
        raise click.ClickException(f"{new} is not better on both of {', '.join(DECIDING)}; kept")
    with safetensors.safe_open(new, "pt") as file:
        recipe = json.loads(file.metadata()["ppsr-train"])
    record = {"name": name, **figures[-1], "recipe": recipe}
    RUNS.mkdir(parents=True, exist_ok=True)
    write_atomically(RUNS / f"{name}.json", (json.dumps(record, indent=2) + "\n").encode())
    shutil.copyfile(run / "log.csv", RUNS / f"{name}.csv")
    write_atomically(shipped, new.read_bytes())
    click.echo(f"shipped: {shipped.relative_to(ROOT)}")


def records() -> list[dict[str, Any]]:
    """Return what is known of the runs that were shipped, in their order."""
    return [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]


def _figures(weights: Path, data: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Measure the masked network, unless these weights have been measured before."""
    digest = weights_digest(read_checkpoint(weights))
    if digest in known:
        return {"weights_sha256": digest, "psnr_y": known[digest]["psnr_y"]}
    with Upscaler(EagerBackend(weights, pure_pass=PurePass())) as upscaler:
        method = Method(weights.name, upscaler.upscale, {})
        sets = find_sets([data / one for one in DECIDING])
        found = evaluate([method], sets, upscaler.scale)
    return {
        "weights_sha256": digest,
        "psnr_y": {one: round(found.means(one)[0].psnr_y, 4) for one in DECIDING},
    }


if __name__ == "__main__":
    main()
