"""Peak memory and time of ppsr-run on large pictures, with the network and without it.

    python benchmarks/large.py 2048x1024 --model artifacts/pp-atd-light_x2_fp32_routed.onnx
    python benchmarks/large.py 7680x4320

Without ``--model`` a graph that only repeats pixels stands in for the network: what is left is what
ppsr itself needs. The picture is the sample photo, mirrored until it fills the size. Each run adds
a row to ``benchmarks/results/large.json``, in place of the one of the same name.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pyvips
from onnx import TensorProto, helper, numpy_helper

from ppsr.calibration.photo import sample_photo
from ppsr.models.config import PurePass
from ppsr.runtime import bench
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.command import reports_errors
from ppsr.runtime.files import write_atomically
from ppsr.runtime.versions import installed

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/large.json"


@click.command()
@click.argument("size", metavar="WIDTHxHEIGHT")
@click.option("--model", type=click.Path(path_type=Path), help="An .onnx of ppsr-export.")
@click.option("--max-memory", default="3500M", show_default=True)
@click.option("--tile", help="As of ppsr-run.")
@click.option("--suffix", default=".png", show_default=True, help="Format of the output.")
@reports_errors
def main(size: str, model: Path | None, max_memory: str, tile: str | None, suffix: str) -> None:
    """Run ppsr-run once on a picture of this size, in a process of its own."""
    width, height = map(int, size.split("x"))
    name = f"{model.stem if model else 'repeated pixels'}, {size}"
    name += f", tiles of {tile}" if tile else ""
    with tempfile.TemporaryDirectory() as folder:
        picture, output = Path(folder, "picture.png"), Path(folder, f"larger{suffix}")
        _fill(width, height).pngsave(str(picture), compression=1)
        if model is None:
            model = Path(folder, "repeated.onnx")
            model.write_bytes(repeating(2).SerializeToString())
        command = [sys.executable, "-c", "from ppsr.runtime.cli import main; main()"]
        command += [str(model), str(picture), "-o", str(output), "--json", "--device", "cpu"]
        command += ["--max-memory", max_memory, *(["--tile", tile] if tile else [])]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
        told = json.loads(done.stdout)
        row = {
            "name": name,
            "max_memory": max_memory,
            "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            "seconds": seconds,
            "model_seconds": told["milliseconds"] / 1000,
            "tiles": told["tiles"],
            "pure": told["pure"],
            "output_bytes": output.stat().st_size,
            "machine": bench.machine(),
            "versions": installed(("ppsr", "numpy", "pyvips", "pyvips-binary", "onnxruntime")),
        }
    click.echo(json.dumps(row))
    rows: list[dict[str, Any]] = json.loads(TARGET.read_text()) if TARGET.exists() else []
    rows = [other for other in rows if other["name"] != name] + [row]
    write_atomically(TARGET, (json.dumps(rows, indent=1) + "\n").encode())


def _fill(width: int, height: int) -> Any:
    """The sample photo, mirrored to the right and below, again and again."""
    photo = pyvips.Image.new_from_array(sample_photo()).copy(interpretation="srgb")
    wide = photo.join(photo.fliphor(), "horizontal")
    four = wide.join(wide.flipver(), "vertical")
    return four.replicate(-(-width // four.width), -(-height // four.height)).crop(
        0, 0, width, height
    )


def repeating(scale: int) -> onnx.ModelProto:
    """A routed graph that repeats each pixel; it is told the active tokens and drops them."""
    artefact = Artefact("pp-atd-light", scale, "routed", "fp32", 20, "0" * 64, "none", PurePass())
    floats = TensorProto.FLOAT
    sizes = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    nodes = [
        helper.make_node("Cast", ["active"], ["floats"], to=floats),
        helper.make_node("ReduceSum", ["floats"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "sum"], ["zero"]),
        helper.make_node("Add", ["input", "zero"], ["same"]),
        helper.make_node(
            "Resize",
            ["same", "", "scales"],
            ["output"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("input", floats, [1, 3, "height", "width"]),
        helper.make_tensor_value_info("active", TensorProto.INT64, ["tokens"]),
    ]
    outputs = [helper.make_tensor_value_info("output", floats, [1, 3, "height2", "width2"])]
    graph = helper.make_graph(nodes, "repeated", inputs, outputs, [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, artefact.to_metadata())
    return model


if __name__ == "__main__":
    main()
