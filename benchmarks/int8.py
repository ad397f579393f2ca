"""What INT8 costs and gains: naive, calibrated, and the mix that keeps a budget.

    python benchmarks/int8.py search ../shared/data/val       # goes on where it was stopped
    python benchmarks/int8.py estimators ../shared/data/val
    python benchmarks/int8.py measure ../shared/data/eval ../shared/data/val
    python benchmarks/int8.py times
    python benchmarks/int8_page.py

``search`` is ``ppsr-calibrate`` for x2 within 0.05 dB, INT8 only, and keeps what each group of
layers costs. ``estimators`` compares estimators of ranges by what ``--int8`` makes, on pictures of
the same folder that no range was taken of. ``measure`` evaluates the graphs on Set5, Set14 and B100
and times them in turns. They write ``benchmarks/results/recipe_x2.toml`` and ``int8.json``, from
which ``int8_page.py`` makes docs/int8.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import onnx
from speed import CORNER, SIZE, crop_of_photo, timed

from ppsr.calibration.collect import observe, ranges_of
from ppsr.calibration.estimators import ESTIMATORS
from ppsr.calibration.ranges import Ranges
from ppsr.calibration.recipe import read_recipe
from ppsr.calibration.samples import draw, list_pictures, split
from ppsr.export.attention_nodes import share_weights
from ppsr.export.calibrate import HELD_OUT_SIDE, CalibrateOptions, calibrate, trace_body
from ppsr.export.compose import write_metadata
from ppsr.export.graph_backend import GraphBackend, graph_sha256
from ppsr.export.linear import Linear, list_layers_of, sites_of
from ppsr.export.lowering import CROPS
from ppsr.export.mixed import mixed
from ppsr.export.precision import to_fp16
from ppsr.export.quantise import quantise
from ppsr.models import build
from ppsr.models.registry import MODELS
from ppsr.runtime import bench
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.bench.timing import Timing, in_turns
from ppsr.runtime.command import reports_errors
from ppsr.runtime.dataset import find_sets
from ppsr.runtime.evaluation import Method, evaluate
from ppsr.runtime.files import write_atomically
from ppsr.runtime.metrics import psnr_y
from ppsr.runtime.tiles import WHOLE
from ppsr.runtime.upscaler import Upscaler
from ppsr.runtime.versions import installed

ROOT = Path(__file__).parents[1]
TARGET, RECIPE = ROOT / "benchmarks/results/int8.json", ROOT / "benchmarks/results/recipe_x2.toml"
SCALE, OPSET, BUDGET = 2, 20, 0.05
SETS = ("Set5", "Set14", "B100")
GRAPHS = FP32, FP16, NAIVE, INNER, MIXED = (
    *("fp32", "fp16", "int8, naive"),
    *("int8, but the ends", "mixed"),
)
MODEL = MODELS["pp-atd-light"]
PICTURES = 6
"""That estimators are compared on."""
BEST = "mse"
"""The estimator of the calibrated graph and of the recipe; ``estimators`` compares all."""


class Network:
    """The FP32 graph, and what its layers see of some pictures."""

    def __init__(self) -> None:
        network = build("pp-atd-light", SCALE)
        self.sha, self.body = network.weights_sha256, trace_body(network)
        self.artefact = Artefact(
            *("pp-atd-light", SCALE, "routed", "fp32", OPSET, self.sha, ""),
            pure_pass=network.config.pure_pass,
        )
        self.layers: tuple[Linear, ...] = list_layers_of(self.body)

    def ranges(self, data: Path) -> dict[str, Ranges]:
        """By estimator, of crops of that half of the pictures that ``search`` takes too."""
        sites = sites_of(self.layers)
        samples = draw(split(list_pictures([data]))[0], SCALE, CROPS)
        with GraphBackend(self.body, self.artefact, watch=list(sites.values())) as shown:
            seen, images = observe(shown, list(sites.values()), (one.lr for one in samples))
        sha = graph_sha256(self.body)
        return {name: ranges_of(seen, sites, name, sha, images) for name in ESTIMATORS}

    def upscaler(self, model: onnx.ModelProto) -> Upscaler:
        described = write_metadata(share_weights(model), self.artefact)
        return Upscaler(GraphBackend(described, self.artefact))

    def in_int8(self, amax: Mapping[str, float], but: Sequence[str]) -> onnx.ModelProto:
        names = [layer.name for layer in self.layers if layer.name not in but]
        return quantise(self.body, names, amax)

    def contestants(
        self, naive: Mapping[str, float], calibrated: Mapping[str, float]
    ) -> dict[str, onnx.ModelProto]:
        """FP32, FP16, all layers with naive ranges, all but the ends, the recipe."""
        recipe = read_recipe(RECIPE)
        names = [layer.name for layer in self.layers]
        precisions = recipe.require(names, "pp-atd-light", SCALE, self.sha)
        return {
            FP32: self.body,
            FP16: to_fp16(self.body),
            NAIVE: self.in_int8(naive, but=()),
            INNER: self.in_int8(calibrated, but=MODEL.ends),
            MIXED: mixed(self.body, precisions, recipe.amax, recipe.default),
        }


@click.group()
def main() -> None:
    """Search, measure, and write the page."""


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--crops", default=8, show_default=True)
@reports_errors
def search(data: Path, crops: int) -> None:
    """Find the recipe for x2."""
    journal = ROOT / "artifacts/recipe_x2.journal.json"
    journal.parent.mkdir(exist_ok=True)
    options = CalibrateOptions(
        *(data, BUDGET, RECIPE, SCALE),
        estimator=BEST,
        crops=crops,
        fp16=False,
        journal=journal,
    )
    made = calibrate(options, lambda step: click.echo(step, err=True))
    found = made.found
    record(
        "search",
        {
            "budget": BUDGET,
            "estimator": BEST,
            "held_in": made.held_in,
            "held_out": made.held_out,
            "groups": [
                {**asdict(one), "chosen": one.group in found.chosen} for one in found.sensitivities
            ],
            "trials": [asdict(one) for one in found.trials],
            "best": asdict(found.best),
            "saved": found.saved,
        },
    )


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@reports_errors
def estimators(data: Path) -> None:
    """Compare the estimators, on what ``--int8`` makes, on pictures held out."""
    network = Network()
    held_out = split(list_pictures([data]))[1]
    samples = list(draw(held_out, SCALE, PICTURES, side=HELD_OUT_SIDE))
    rows = {}
    models = {
        name: network.in_int8(ranges.amax, but=MODEL.kept_from_int8)
        for name, ranges in network.ranges(data).items()
    }
    for name, model in {"fp32": network.body, **models}.items():
        with network.upscaler(model) as up:
            psnrs = [psnr_y(up(one.lr), one.hr, SCALE, rounded=False) for one in samples]
        rows[name] = fmean(psnrs)
        click.echo(f"{name}: {rows[name]:.4f} dB", err=True)
    record("estimators", {"pictures": len(samples), "psnr_y": rows})


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("calibration", type=click.Path(path_type=Path))
@click.option("--only", type=click.Choice(GRAPHS), multiple=True, help="Keep the other rows.")
@reports_errors
def measure(data: Path, calibration: Path, only: tuple[str, ...]) -> None:
    """Evaluate FP32, FP16, INT8 naive and but for the ends, and the mix of the recipe."""
    network = Network()
    amax = [read_recipe(RECIPE).amax] * 2
    if not only or {NAIVE, INNER} & set(only):
        ranges = network.ranges(calibration)
        amax = [ranges["minmax"].amax, ranges[BEST].amax]
    models = network.contestants(*amax)
    models = {name: model for name, model in models.items() if name in (only or GRAPHS)}
    sets = [find_sets([data / name])[0] for name in SETS]
    with ExitStack() as stack:
        ups = [stack.enter_context(network.upscaler(model)) for model in models.values()]
        methods = [Method(name, up.upscale, {}) for name, up in zip(models, ups, strict=True)]
        found = evaluate(methods, sets, SCALE)
    rows: dict[str, Any] = {}
    if only:
        rows = json.loads(TARGET.read_text())["measure"]["rows"]
    for number, (name, model) in enumerate(models.items()):
        rows[name] = {
            "bytes": len(share_weights(model).SerializeToString()),
            "layers": _count(model),
            "sets": {
                one: {
                    "psnr_y": found.means(one)[number].psnr_y_unrounded,
                    "ssim_y": found.means(one)[number].ssim_y,
                }
                for one in SETS
            },
        }
    content = {
        "layers": len(network.layers),
        "rows": {name: rows[name] for name in GRAPHS if name in rows},
        "machine": bench.machine(),
        "versions": installed(("ppsr", "onnx", "onnxruntime")),
        "weights_sha256": network.sha,
    }
    record("measure", content)


@main.command()
@click.option("--runs", default=9, show_default=True)
@reports_errors
def times(runs: int) -> None:
    """Run the same graphs in turns; with the ranges of the recipe, which no time depends on."""
    network = Network()
    amax = read_recipe(RECIPE).amax
    models = network.contestants(amax, amax)
    del models[FP16]  # A CPU computes it in FP32.
    crop = crop_of_photo(SIZE, CORNER)
    with ExitStack() as stack:
        ups = [stack.enter_context(network.upscaler(model)) for model in models.values()]
        runners = [partial(timed, partial(up.upscale, crop, tiling=WHOLE)) for up in ups]
        timings = [Timing(found) for found in in_turns(runners, runs, [2] * len(runners))]
    rows = {
        name: {
            "milliseconds": asdict(timing.milliseconds),
            "times_as_fast": asdict(timing.ratio(timings[0])),
        }
        for name, timing in zip(models, timings, strict=True)
    }
    record("times", {"size": SIZE, "machine": bench.machine(), "rows": rows})


def record(part: str, content: Any) -> None:
    """Put one part of the figures beside the others."""
    known = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    write_atomically(TARGET, (json.dumps({**known, part: content}, indent=1) + "\n").encode())


def _count(model: onnx.ModelProto) -> int:
    """Layers whose weights are INT8."""
    kept: Sequence[onnx.TensorProto] = model.graph.initializer
    return sum(
        tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1 for tensor in kept
    )


if __name__ == "__main__":
    main()
