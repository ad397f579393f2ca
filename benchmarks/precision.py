"""What FP16 costs, and what each FP32 island is worth.

    python benchmarks/precision.py measure ../shared/data/eval
    python benchmarks/precision.py page

``measure`` runs the x2 graph with every FP16 tensor really rounded (``export/rounding.py``), on the
CPU: with the islands of every export, with one more, with each of them left out, with none; then
PSNR against ground truth on Set5 and on 20 pictures of B100. It writes
``benchmarks/results/precision.json``; ``page`` makes ``docs/precision.md`` of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy.typing as npt
import onnx

from ppsr.calibration.crops import sample_crops
from ppsr.export.compose import write_metadata
from ppsr.export.engine import list_layers
from ppsr.export.fold import fold
from ppsr.export.graph_backend import GraphBackend
from ppsr.export.islands import CAUTIOUS, ISLANDS, Island
from ppsr.export.layers import COMPUTING
from ppsr.export.precision import to_fp16
from ppsr.export.reference import Reference
from ppsr.export.trace import trace_network
from ppsr.export.tuning import SURGERY
from ppsr.export.verify import GraphRun
from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.runtime import bench
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.command import reports_errors
from ppsr.runtime.dataset import PictureSet, find_sets, read_ground_truth
from ppsr.runtime.evaluation import Method, evaluate
from ppsr.runtime.files import write_atomically
from ppsr.runtime.imresize import degrade
from ppsr.runtime.upscaler import Upscaler
from ppsr.runtime.versions import installed

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/precision.json"
PAGE = ROOT / "docs/precision.md"
SCALE, OPSET = 2, 20
CROPS = 8
CROP = (96, 128)
PICTURES = {"Set5": 5, "B100": 20}


@click.group()
def main() -> None:
    """Measure the FP16 graph and write the page about it."""


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@reports_errors
def measure(data: Path) -> None:
    """Measure every choice of islands on crops of B100, the default one on whole pictures."""
    network = build("pp-atd-light", SCALE)
    traced = trace_network(fold(network), OPSET)
    for _, stage in SURGERY:
        traced = stage(traced)
    pictures = {name: _first(data / name, number) for name, number in PICTURES.items()}
    crops = _crops(pictures["B100"])
    reference = Reference(network)
    rows = []
    for name, islands in choices().items():
        model, artefact = _half(traced, network, islands)
        reports = [GraphRun(model, artefact).compare(reference, crop) for crop in crops]
        peaks = [report.peak for report in reports if report.peak is not None]
        layers = [one for one in list_layers(model, "tensorrt-rtx") if one.kind in COMPUTING]
        rows.append(
            {
                "islands": name,
                "psnr_min": min(report.psnr for report in reports),
                "psnr_mean": fmean(report.psnr for report in reports),
                "flipped": fmean(report.flipped for report in reports),
                "max_abs": max(report.max_abs for report in reports),
                "peak": max(peaks),
                "computing_layers": len(layers),
                "fp32_layers": sum("FLOAT" in one.outputs for one in layers),
            }
        )
        click.echo(json.dumps(rows[-1]))
    half, artefact = _half(traced, network, ISLANDS)
    full = write_metadata(traced, replace(artefact, precision="fp32"))
    with ExitStack() as stack:
        methods = [
            Method(name, stack.enter_context(Upscaler(backend)).upscale, {})
            for name, backend in (
                ("fp32", GraphBackend(full, artefact, optimise=False)),
                ("fp16", GraphBackend(half, artefact)),
            )
        ]
        found = evaluate(methods, list(pictures.values()), SCALE)
    content = {
        "machine": bench.machine(),
        "versions": installed(("ppsr", "onnx", "onnxruntime", "tensorrt-rtx")),
        "weights_sha256": network.weights_sha256,
        "crops": {"number": len(crops), "size": CROP, "of": "B100, low resolution"},
        "rows": rows,
        "sets": {
            name: {
                method.name: score.psnr_y_unrounded
                for method, score in zip(methods, found.means(name), strict=True)
            }
            for name in PICTURES
        },
    }
    write_atomically(TARGET, (json.dumps(content, indent=1) + "\n").encode())


@main.command()
@reports_errors
def page() -> None:
    """Write docs/precision.md."""
    write_atomically(PAGE, spell(json.loads(TARGET.read_text())).encode())


def choices() -> dict[str, tuple[Island, ...]]:
    """The default, with one island more, each of the default's left out in turn, none."""
    without = {
        f"without {one.name}": tuple(other for other in ISLANDS if other is not one)
        for one in ISLANDS
    }
    added = ", ".join(one.name for one in CAUTIOUS if one not in ISLANDS)
    return {"default": ISLANDS, f"with {added} in FP32": CAUTIOUS, **without, "none": ()}


def spell(content: dict[str, Any]) -> str:
    """The page, from what was measured."""
    islands = "\n".join(f"- **{one.name}** (`{one.pattern}`): {one.reason}." for one in ISLANDS)
    rows = "\n".join(
        f"| {row['islands']} | {row['psnr_min']:.1f} / {row['psnr_mean']:.1f} "
        f"| {100 * row['flipped']:.2f} % | {row['max_abs']:.1e} | {row['peak']:.0f} "
        f"| {row['fp32_layers']} of {row['computing_layers']} |"
        for row in content["rows"]
    )
    drops = "\n".join(
        f"| {name} ({PICTURES[name]} pictures) | {of['fp32']:.4f} | {of['fp16']:.4f} "
        f"| {of['fp16'] - of['fp32']:+.4f} |"
        for name, of in content["sets"].items()
    )
    height, width = content["crops"]["size"]
    return f"""# FP16: what stays in FP32, and what that is worth

<!-- Made by benchmarks/precision.py from benchmarks/results/precision.json. -->

TensorRT 11 has no precision flags: what the graph says is what runs. `--fp16` makes every float
tensor FP16 but for {len(ISLANDS)} islands of FP32, found by the names of their nodes
(`export/islands.py`), with a cast on each edge between. Inputs and outputs stay FP32.

{islands}

Window attention (SW-MSA), category attention (AC-MSA), the linear layers around them, the
feed-forward networks and all convolutions are FP16, with LayerNormalization as one operator.

## Each island left out, and one more

x2, shipped weights (`{content["weights_sha256"][:12]}`), {content["crops"]["number"]} crops of
{height} x {width} from {content["crops"]["of"]}; every FP16 tensor really rounded, sums within an
operator in FP32, as tensor cores accumulate. PSNR is that between the outputs of the FP16 graph and
the FP32 network, both free; "flipped" is the share of active tokens, over all layers, in another
category than in FP32; the difference is the largest one once the categories are the same; the
largest value says how far FP16's 65504 is. The layers are those of the parsed network that compute
(products, convolutions, softmax, norms).

| islands | PSNR, dB: least / mean | flipped | largest difference | largest value | in FP32 |
|---|---|---|---|---|---|
{rows}

The default is the fused variant of AC-MSA: scale on the queries, product and softmax in FP16, one
kernel where TensorRT fuses attention. "With category logits in FP32" is the cautious one
(`CAUTIOUS`), which an engine cannot fuse. Which of the two is faster has not been measured: there
was no GPU.

## Against ground truth

PSNR of Y, unrounded, dB, of the routed graph in FP32 and in FP16, rounded as above:

| set | FP32 | FP16 | difference |
|---|---|---|---|
{drops}

Measured with `python benchmarks/precision.py measure ../shared/data/eval`, on
{content["machine"]["cpu"]}.
"""


def _half(
    traced: onnx.ModelProto, network: ATD, islands: Sequence[Island]
) -> tuple[onnx.ModelProto, Artefact]:
    settings, sha = network.config.pure_pass, network.weights_sha256
    artefact = Artefact("pp-atd-light", SCALE, "routed", "fp16", OPSET, sha, "", settings)
    return write_metadata(to_fp16(traced, islands), artefact), artefact


def _first(folder: Path, number: int) -> PictureSet:
    (found,) = find_sets([folder])
    return replace(found, paths=found.paths[:number])


def _crops(pictures: PictureSet) -> list[npt.NDArray[Any]]:
    """Low-resolution crops, their purity spread."""
    small = [(path.name, degrade(read_ground_truth(path), SCALE)[0]) for path in pictures.paths]
    return [crop.rgb for crop in sample_crops(small, [CROP] * CROPS)]


if __name__ == "__main__":
    main()
