"""How fast the masked network is on a CPU: over sizes, from the start, and where its time goes.

    ppsr-export --scale 2 --form routed --target onnxruntime
    ppsr-export --scale 2 --form routed --target openvino
    ppsr-export --scale 2 --form routed --target onnx
    python benchmarks/speed.py start
    python benchmarks/speed.py sizes
    python benchmarks/speed.py memory
    ppsr-export --scale 2 --form routed --target onnxruntime --model atd-light
    python benchmarks/speed.py ceiling

``start``: what ppsr-run adds to the network's own time, from the command to the picture.
``sizes``: time per pixel and memory from 128 x 128 to 2048 x 2048. ``memory``: what a run gains
where the one before it left its memory. ``ceiling``: what the parts of the dense network take.
Each writes its part of ``benchmarks/results/speed.json``, from which ``speed_page.py`` makes
docs/performance.md; ``versus.py`` and ``passes.py`` add theirs.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pyvips

from ppsr.calibration.photo import sample_photo
from ppsr.export.attention_nodes import bodies
from ppsr.runtime import bench
from ppsr.runtime.bench.timing import Sample, Timing, in_turns, summarise
from ppsr.runtime.command import reports_errors
from ppsr.runtime.files import write_atomically
from ppsr.runtime.open_model import open_model
from ppsr.runtime.tiles import OVERLAP, WHOLE, Tiling
from ppsr.runtime.upscaler import Upscaler

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/speed.json"
STEM = "pp-atd-light_x2_fp32_routed"
SIZE = (128, 192)
CORNER = (80, 100)
"""Of the crop of the sample photo, of which half is pure."""
CONTESTANTS = {
    "for any runtime, onnxruntime": f"{STEM}.onnx@cpu",
    "for onnxruntime, onnxruntime": f"{STEM}_onnxruntime.onnx@cpu",
    "for OpenVINO, OpenVINO": f"{STEM}_openvino.onnx@openvino",
    "for OpenVINO, OpenVINO in BF16": f"{STEM}_openvino.onnx@openvino-bf16",
}
SIZED = ("for onnxruntime, onnxruntime", "for OpenVINO, OpenVINO in BF16")
KEPT = ("for any runtime, onnxruntime", "for onnxruntime, onnxruntime")
SQUARES = (128, 256, 512, 1024, 2048)
WHOLE_UP_TO = 512
TILE = WHOLE_UP_TO + OVERLAP
"""Side of the tiles of larger squares: so 1024 x 1024 are four."""
Rgb = npt.NDArray[np.uint8]


@click.group()
@click.option("--models", type=click.Path(path_type=Path), default=ROOT / "artifacts")
@click.pass_context
def main(context: click.Context, models: Path) -> None:
    """Measure speed on this machine's CPU."""
    context.obj = models


@main.command()
@click.option("--runs", default=7, show_default=True)
@click.pass_obj
@reports_errors
def start(models: Path, runs: int) -> None:
    """Time ppsr-run on a PNG of 512 x 512 from the command to the picture."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "picture.png")
        _save(_square(512), picture)
        for name, file in CONTESTANTS.items():
            path, device = str(models / file).rsplit("@", 1)
            output = Path(folder, "larger.png")
            command = [sys.executable, "-c", "from ppsr.runtime.cli import main; main()"]
            command += [path, str(picture), "-o", str(output), "--json", "--device", device]
            added = []
            for _ in range(runs):
                begin = time.perf_counter()
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                wall = 1000 * (time.perf_counter() - begin)
                added.append(wall - json.loads(done.stdout)["milliseconds"])
            rows[name] = asdict(Timing(tuple(map(Sample, added))).milliseconds)
    record("start", {"size": (512, 512), "added_milliseconds": rows})


@main.command()
@click.option("--runs", default=3, show_default=True)
@click.option("--name", "names", type=click.Choice(SIZED), multiple=True, default=SIZED)
@click.pass_obj
@reports_errors
def sizes(models: Path, runs: int, names: tuple[str, ...]) -> None:
    """Time squares, whole up to 512 x 512 and in tiles above, each size in a process of its own.

    Of contestants that are not named the rows on record stay.
    """
    rows = [row for row in on_record().get("sizes", []) if row["name"] not in names]
    for name in names:
        for side in SQUARES:
            command = [sys.executable, __file__, "--models", str(models), "one", name, str(side)]
            command.append(str(runs if side <= WHOLE_UP_TO else 1))
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rows.append({"name": name, "side": side, **json.loads(done.stdout)})
            click.echo(json.dumps(rows[-1]))
    record("sizes", rows)


@main.command()
@click.option("--runs", default=15, show_default=True)
@click.pass_obj
@reports_errors
def memory(models: Path, runs: int) -> None:
    """Time runs of onnxruntime that ask for memory and give it back, and runs that have it."""
    crop, rows = crop_of_photo(SIZE, CORNER), {}
    for name in KEPT:
        up = open_model(str(models / CONTESTANTS[name]))
        # The first run of another size than the last gives all memory back, so the third has it.
        calls = [partial(_nth_of_its_size, up, crop, nth) for nth in (1, 3)]
        asks, has = (Timing(samples) for samples in in_turns(calls, runs, [1, 1]))
        rows[name] = {
            "milliseconds": asdict(asks.milliseconds),
            "saving": asdict(summarise(has.savings(asks))),
        }
    record("memory", rows)


@main.command()
@click.option("--runs", default=5, show_default=True)
@click.pass_obj
@reports_errors
def ceiling(models: Path, runs: int) -> None:
    """Sum up what AC-MSA takes of the dense network: more than that masking cannot save."""
    path = models / f"{STEM}_onnxruntime.onnx".replace("pp-", "")
    inside = {node.name for body in bodies(onnx.load(path).graph) for node in body.node}
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    crop = crop_of_photo(SIZE, CORNER)
    feed = {"input": (crop.astype(np.float32) / 255).transpose(2, 0, 1)[None]}
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(str(path), options)
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: Counter[str] = Counter()
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"] and name not in inside:
            part = re.search("attn_win|attn_aca|attn_atd|convffn|refine|norm3", name)
            spent[part[0] if part else "the rest"] += event["dur"]
    total = sum(spent.values())
    record("ceiling", {part: time / total for part, time in spent.most_common()})


@main.command(hidden=True)
@click.argument("name")
@click.argument("side", type=int)
@click.argument("runs", type=int)
@click.pass_obj
def one(models: Path, name: str, side: int, runs: int) -> None:
    """Time one contestant on one square; what is large is its own warm-up."""
    up, square = open_model(str(models / CONTESTANTS[name])), _square(side)
    whole = side <= WHOLE_UP_TO
    run = partial(up.upscale, square, tiling=WHOLE if whole else Tiling(tile=TILE))
    (samples,) = in_turns([partial(timed, run)], runs, [1 if whole else 0])
    milliseconds = Timing(samples).milliseconds
    row = {
        "tile": None if whole else TILE,
        "milliseconds": asdict(milliseconds),
        "microseconds_per_pixel": 1000 * milliseconds.median / side**2,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    click.echo(json.dumps(row))


def _nth_of_its_size(up: Upscaler, rgb: Rgb, nth: int) -> Sample:
    """Upscale a small crop, and then all of it so many times -> what the last one took."""
    up.upscale(rgb[:64, :64], tiling=WHOLE)
    for _ in range(nth - 1):
        up.upscale(rgb, tiling=WHOLE)
    return timed(partial(up.upscale, rgb, tiling=WHOLE))


def timed(run: Callable[[], Any]) -> Sample:
    """What a call takes; of an upscaler what its model takes."""
    begin = time.perf_counter()
    result = run()
    took = 1000 * (time.perf_counter() - begin)
    return Sample(getattr(result, "milliseconds", took))


def crop_of_photo(size: tuple[int, int], corner: tuple[int, int]) -> Rgb:
    (height, width), (top, left) = size, corner
    return np.ascontiguousarray(sample_photo()[top : top + height, left : left + width])


def _square(side: int) -> Rgb:
    """The sample photo, mirrored to the right and below, again and again."""
    photo = sample_photo()
    wide = np.concatenate((photo, photo[:, ::-1]), 1)
    four = np.concatenate((wide, wide[::-1]))
    down, across = (-(-side // size) for size in four.shape[:2])
    return np.ascontiguousarray(np.tile(four, (down, across, 1))[:side, :side])


def _save(rgb: Rgb, path: Path) -> None:
    pyvips.Image.new_from_array(rgb).copy(interpretation="srgb").pngsave(str(path))


def on_record() -> dict[str, Any]:
    """What was measured before, by part."""
    return dict(json.loads(TARGET.read_text())) if TARGET.exists() else {}


def record(part: str, content: Any) -> None:
    known = on_record()
    known[part] = content
    known["machine"], known["versions"] = bench.machine(), bench.versions()
    click.echo(json.dumps(content, indent=1))
    write_atomically(TARGET, (json.dumps(known, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
