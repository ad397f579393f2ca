"""The papers' comparison in small: networks trained alike from nothing, exported, measured.

    python benchmarks/comparison.py train ../shared/data/train ../shared/data/val
    python benchmarks/comparison.py quality ../shared/data/eval
    python benchmarks/comparison.py exits ../shared/data/eval
    python benchmarks/comparison.py times
    python benchmarks/comparison_page.py

``train`` takes hours on a CPU, one network after the other; stopped, it goes on where it was.
Dense, Pure-Pass and CAMixer at x2 have the same seed, pictures, order and number of steps;
AdaFormer is trained once, at x4. Runs are kept in ``artifacts/comparison``. ``quality`` exports
what is trained to the end and evaluates the files on onnxruntime, ``exits`` AdaFormer's weights
under other rules of exit in torch, ``times`` runs the files in turns and wants the machine for
itself. Each adds to ``benchmarks/results/comparison.json``, from which the page is made. With
``--only`` and OMP_NUM_THREADS=1 (or ``--threads 1``) two of them on two cores take less time than
one after the other.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from speed import CORNER, SIZE, crop_of_photo, timed

from ppsr.export import export
from ppsr.models import build, multiply_adds, paper_flops
from ppsr.models.adaformer import AdaFormer
from ppsr.models.adaformer_flops import adaformer_multiply_adds
from ppsr.models.config import ModelName
from ppsr.models.halting import ExitRule, NoExit, RandomExit, UniformExit
from ppsr.runtime import bench
from ppsr.runtime.bench.timing import Timing, in_turns
from ppsr.runtime.command import reports_errors, threads_option
from ppsr.runtime.dataset import find_sets, read_ground_truth
from ppsr.runtime.evaluation import Evaluation, Method, evaluate
from ppsr.runtime.files import write_atomically
from ppsr.runtime.imresize import degrade
from ppsr.runtime.methods import bicubic
from ppsr.runtime.tiles import WHOLE
from ppsr.runtime.upscaler import Result, Upscaler
from ppsr.runtime.versions import installed
from ppsr.training.options import TrainOptions
from ppsr.training.schedule import progress
from ppsr.training.state import STATE, WEIGHTS, load_state
from ppsr.training.trainer import Trainer, new_run, resumed_run

ROOT = Path(__file__).parents[1]
RUNS, TARGET = ROOT / "artifacts/comparison", ROOT / "benchmarks/results/comparison.json"
SETS = ("Set5", "Set14", "B100")
HD = (720, 1280)
"""Height and width of the output that the papers count multiply-adds for."""
PACKAGES = ("ppsr", "numpy", "torch", "onnxruntime")
PURE = 0.389
"""Share of pure pixels behind the papers' average of PP-ATD-light: 79.30 G of 87.15 G at x4."""


@dataclass(frozen=True)
class System:
    """One network of the comparison and how it is trained."""

    name: str
    model: ModelName
    scale: int = 2
    ratio: float | None = None
    steps: int | None = 700
    minutes: float | None = None

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    def options(self, data: Path, validation: Path) -> TrainOptions:
        return TrainOptions(
            scale=self.scale,
            model=self.model,
            ratio=self.ratio,
            data=str(data),
            validation=str(validation),
            init="bicubic",
            steps=self.steps,
            minutes=self.minutes,
            patch=48,
            batch=4,
            seed=2025,
        )


SYSTEMS = (
    System("ATD-light", "atd-light"),
    System("PP-ATD-light", "pp-atd-light"),
    System("CAMixer-ATD-light-0.8", "camixer-atd-light", ratio=0.8),
    System("CAMixer-ATD-light-0.5", "camixer-atd-light", ratio=0.5),
    System("AdaFormer", "adaformer", scale=4, steps=None, minutes=40),
)


@click.group()
def main() -> None:
    """Train and measure."""


ONLY = click.option("--only", type=click.Choice([one.name for one in SYSTEMS]), multiple=True)


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("validation", type=click.Path(path_type=Path))
@ONLY
@reports_errors
def train(data: Path, validation: Path, only: tuple[str, ...]) -> None:
    """Train every network to the end of its run."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopped.append(received))
    for system in SYSTEMS:
        if only and system.name not in only:
            continue
        trainer = _trainer(system, data, validation)
        trainer.run(
            lambda row, system=system: click.echo(  # type: ignore[misc]
                f"{system.name}: step {row.step}, {row.minutes:.1f} min, loss {row.loss:.5f}"
            ),
            lambda: bool(stopped),
        )
        if stopped:
            raise click.exceptions.Exit(130)


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@ONLY
@threads_option
@reports_errors
def quality(data: Path, only: tuple[str, ...], threads: int | None) -> None:
    """Export what is trained to the end at x2, and evaluate the portable files on onnxruntime."""
    sets = _sets(data)
    for system in _done(only, 2):
        with Upscaler.open(_file(system), "cpu", threads) as up:
            method = Method(system.name, partial(up.upscale, tiling=WHOLE), {})
            scores = _scores(evaluate([method], sets, 2), 0)
        _add("quality", {system.name: {"sets": scores, "training": _training(system)}})
    found = evaluate([Method("bicubic", partial(bicubic, scale=2), {})], sets, 2)
    _add("quality", {"bicubic": {"sets": _scores(found, 0)}})


@main.command()
@click.option("--runs", default=9, show_default=True)
@reports_errors
def times(runs: int) -> None:
    """Run the same files in turns on one crop, and count what they multiply at 1280 x 720."""
    systems = _done((), 2)
    with ExitStack() as stack:
        ups = [stack.enter_context(Upscaler.open(_file(one), "cpu")) for one in systems]
        crop = crop_of_photo(SIZE, CORNER)
        runners = [partial(timed, partial(up.upscale, crop, tiling=WHOLE)) for up in ups]
        timings = [Timing(found) for found in in_turns(runners, runs, [2] * len(runners))]
    rows = {}
    for system, timing in zip(systems, timings, strict=True):
        low = (HD[0] // 2, HD[1] // 2)
        of = (system.model, 2, *low)
        network = build(system.model, 2, weights=None, ratio=system.ratio)
        masked = system.model == "pp-atd-light"
        active = round((1 - PURE) * low[0] * -(-low[1] // 16) * 16) if masked else None
        rows[system.name] = {
            "parameters": sum(one.numel() for one in network.parameters()),
            "paper_flops": paper_flops(*of, PURE if masked else 0.0, ratio=system.ratio),
            "multiply_adds": multiply_adds(*of, active, ratio=system.ratio),
            "milliseconds": asdict(timing.milliseconds),
            "times_as_fast": asdict(timing.ratio(timings[0])),
        }
    about = {"machine": bench.machine(), "versions": installed(PACKAGES), "size": SIZE}
    _add("times", {**about, "rows": rows})


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@reports_errors
def exits(data: Path) -> None:
    """Evaluate AdaFormer's weights under each rule of exit, in torch."""
    sets = _sets(data)
    for system in _done((), 4):
        _add("exits", {"training": _training(system), "rules": _rules(system, sets)})


def _rules(system: System, sets: list[Any]) -> dict[str, Any]:
    network = build(system.model, system.scale, system.folder / WEIGHTS)
    assert isinstance(network, AdaFormer)
    tokens, windows = _shares(network, sets)
    spent = sum(tokens) / len(tokens)
    rules: dict[str, ExitRule | None] = {
        "learnt": None,
        "none": NoExit(),
        # As many blocks as the learnt exit attends to on average, at least one.
        "uniform": UniformExit(max(1, round(spent * network.config.blocks))),
        "random": RandomExit(tokens, windows),
    }
    rows: dict[str, Any] = {}
    methods = [Method(n, partial(_enlarge, network, rule), {}) for n, rule in rules.items()]
    found = evaluate(methods, sets, system.scale)
    low = (HD[0] // system.scale, HD[1] // system.scale)
    for number, (name, rule) in enumerate(rules.items()):
        network.exit_rule = rule
        kept = _shares(network, sets)
        rows[name] = {
            "sets": _scores(found, number),
            "tokens": kept[0],
            "windows": kept[1],
            "multiply_adds": adaformer_multiply_adds(
                network.config, *low, tokens=kept[0], windows=kept[1]
            ),
        }
    return rows


@torch.inference_mode()
def _enlarge(network: AdaFormer, rule: ExitRule | None, rgb: npt.NDArray[np.uint8]) -> Result:
    """Run the network under a rule; what halts is left out of the computation."""
    network.form, network.exit_rule = "sparse", rule
    image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    start = time.perf_counter()
    out = network(image)[0]
    took = 1000 * (time.perf_counter() - start)
    levels = out.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return Result(levels, None, took, 0.0)


def _shares(network: AdaFormer, sets: list[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean share of tokens and of windows that each block keeps, over all pictures."""
    found = []
    for path in (path for one in sets for path in one.paths):
        low, _ = degrade(read_ground_truth(path), network.scale)
        halting = network.halting(torch.from_numpy(low).permute(2, 0, 1)[None].float() / 255)
        found.append((halting.token_shares, halting.window_shares))
    tokens, windows = np.mean(found, 0)
    return tuple(tokens.tolist()), tuple(windows.tolist())


def _trainer(system: System, data: Path, validation: Path) -> Trainer:
    if (system.folder / STATE).exists():
        return resumed_run(system.folder)
    return new_run(system.folder, system.options(data, validation))


def _file(system: System) -> Path:
    """The portable file of the trained weights, made where it is not there."""
    folder = system.folder / "onnx"
    files = sorted(folder.glob("*_routed.onnx"))
    if not files:
        export(
            system.scale,
            model=system.model,
            ratio=system.ratio,
            weights=system.folder / WEIGHTS,
            form="routed",
            target="onnx",
            output=folder,
        )
        files = sorted(folder.glob("*_routed.onnx"))
    return files[0]


def _is_done(system: System) -> bool:
    if not (system.folder / STATE).exists():
        return False
    state = load_state(system.folder)
    return progress(state.options, state.step, state.seconds) == 1


def _training(system: System) -> dict[str, Any]:
    state = load_state(system.folder)
    options = {**state.options.to_dict(), "data": None, "validation": None}
    return {"steps": state.step, "minutes": state.seconds / 60, "options": options}


def _sets(data: Path) -> list[Any]:
    return [find_sets([data / name])[0] for name in SETS]


def _done(only: tuple[str, ...], scale: int) -> list[System]:
    """Return those of a scale that are trained to the end."""
    asked = [one for one in SYSTEMS if one.scale == scale and (not only or one.name in only)]
    return [system for system in asked if _is_done(system)]


def _add(part: str, found: dict[str, Any]) -> None:
    """Write a part of the figures; those of other systems in it stay, in the order of SYSTEMS."""
    content = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    rows = {**content.get(part, {}), **found}
    order = [system.name for system in SYSTEMS]
    content[part] = dict(
        sorted(rows.items(), key=lambda row: order.index(row[0]) if row[0] in order else -1)
    )
    write_atomically(TARGET, (json.dumps(content, indent=1) + "\n").encode())


def _scores(found: Evaluation, number: int) -> dict[str, dict[str, float]]:
    scores = {name: found.means(name)[number] for name in SETS}
    return {n: {"psnr_y": one.psnr_y, "ssim_y": one.ssim_y} for n, one in scores.items()}


if __name__ == "__main__":
    main()
