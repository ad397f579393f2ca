"""What many pictures cost besides the model: time for reading and writing, and memory.

    python benchmarks/batch.py artifacts/pp-atd-light_x2_fp32.onnx

Upscales 20 and then 200 small pictures (crops of the sample photo, half of them JPEG) as ppsr-run
does, each number in a process of its own, and writes ``benchmarks/results/batch.json``:

wall          from the first byte read to the last file in its place
in the model  the sum of what the model took in that run
alone         the sum of what it takes for the same pixels in memory, with nothing else going on
peak          resident memory at most; after the model was loaded and run once
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from ppsr.calibration.photo import sample_photo
from ppsr.models.errors import PpsrError
from ppsr.runtime import bench
from ppsr.runtime.batch.inputs import find_inputs
from ppsr.runtime.batch.jobs import plan
from ppsr.runtime.batch.names import Naming
from ppsr.runtime.batch.pipeline import run_batch
from ppsr.runtime.command import reports_errors, threads_option
from ppsr.runtime.files import write_atomically
from ppsr.runtime.pictures.decode import read_rgb
from ppsr.runtime.pictures.encode import PictureWriter, choose_encoding
from ppsr.runtime.pictures.metadata import Metadata
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/batch.json"
NUMBERS = (20, 200)


@dataclass(frozen=True)
class Measured:
    """Of one number of pictures; seconds, bytes."""

    pictures: int
    wall: float
    in_the_model: float
    alone: float
    before: int
    peak: int


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--size", default="64x96", show_default=True, help="Height x width of a picture.")
@threads_option
@reports_errors
def main(model: Path, size: str, threads: int | None) -> None:
    """Measure, print and write."""
    height, width = map(int, size.split("x"))
    results = []
    for number in NUMBERS:
        with tempfile.TemporaryDirectory() as name:
            _write_pictures(Path(name, "in"), number, height, width)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                measured = pool.submit(_measure, model, Path(name), threads).result()
        results.append(measured)
        click.echo(
            f"{number} pictures: wall {measured.wall:.1f} s, "
            f"{measured.wall / measured.in_the_model:.3f} x in the model, "
            f"{measured.wall / measured.alone:.3f} x alone; "
            f"peak {measured.peak / 1e6:.0f} MB, {measured.before / 1e6:.0f} before"
        )
    content = {
        "model": model.name,
        "size": [height, width],
        "threads": threads,
        "machine": bench.machine(),
        "versions": bench.versions(),
        "results": [asdict(measured) for measured in results],
    }
    write_atomically(TARGET, (json.dumps(content, indent=1) + "\n").encode())


def _write_pictures(folder: Path, number: int, height: int, width: int) -> None:
    folder.mkdir()
    photo = sample_photo()
    generator = np.random.default_rng(0)
    for index in range(number):
        top = int(generator.integers(photo.shape[0] - height))
        left = int(generator.integers(photo.shape[1] - width))
        rgb = np.ascontiguousarray(photo[top : top + height, left : left + width])
        kind, suffix = (("png", ".png"), ("jpeg", ".jpg"))[index % 2]
        encoding = choose_encoding(kind, ArrayPixels(rgb), scale=1, depth=None, quality=None)
        path = folder / f"{index:03}{suffix}"
        with PictureWriter(path, (height, width, 3), encoding, Metadata()) as writer:
            writer.write(rgb)


def _measure(model: Path, folder: Path, threads: int | None) -> Measured:
    with Upscaler.open(model, "cpu", threads) as upscaler:
        naming = Naming(output=str(folder / "out"))
        inputs = find_inputs([str(folder / "in")])
        jobs = plan(inputs, naming, scale=upscaler.scale, model=upscaler.artefact.model)
        first = sample_photo()[:64, :96]
        upscaler.upscale(first)
        before = _peak()
        start = time.perf_counter()
        outcomes = list(run_batch(jobs, upscaler))
        wall = time.perf_counter() - start
        peak = _peak()
        in_the_model = 0.0
        for outcome in outcomes:
            if outcome.error is not None or outcome.milliseconds is None:
                raise PpsrError(f"{outcome.job.source.name}: {outcome.error}")
            in_the_model += outcome.milliseconds / 1000
        alone = sum(upscaler.upscale(rgb).milliseconds for rgb in _pixels(folder / "in")) / 1000
        return Measured(len(jobs), wall, in_the_model, alone, before, peak)


def _pixels(folder: Path) -> list[npt.NDArray[np.uint8]]:
    return [read_rgb(path) for path in sorted(folder.iterdir())]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
