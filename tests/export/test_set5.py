"""The shipped weights against ground truth on Set5 x2; only with ../shared beside the tree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ppsr.runtime import cli
from ppsr.runtime.artefact import OUTPUT
from ppsr.runtime.metrics import psnr_y
from ppsr.runtime.pictures.decode import read_rgb

SHARED = Path(__file__).parents[3] / "shared"
LOW, HIGH = SHARED / "golden" / "Set5_LR_bicubic", SHARED / "data" / "eval" / "Set5"
RUNS = Path(__file__).parents[2] / "benchmarks" / "results" / "training"
NAMES = ("baby", "bird", "butterfly", "head", "woman")

pytestmark = pytest.mark.skipif(
    not (LOW.is_dir() and HIGH.is_dir()), reason="needs Set5 in ../shared"
)


def truth(name: str) -> np.ndarray:
    """HR cropped to a multiple of the scale."""
    rgb = read_rgb(HIGH / f"{name}.webp")
    return rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]


def test_ppsr_run_reaches_what_the_weights_reached(graph, tmp_path):
    """Y-PSNR, rounded Y, border 2, as ``benchmarks/ship.py`` measured them; bicubic has 33.64."""
    model = tmp_path / "model.onnx"
    onnx.save(graph("pp-atd-light", "self-contained")[0], model)
    scores = []
    for name in NAMES:
        larger = tmp_path / f"{name}.png"
        done = CliRunner().invoke(
            cli.main, [str(model), str(LOW / f"{name}x2.png"), "-o", str(larger)]
        )
        assert done.exit_code == 0, done.output
        scores.append(psnr_y(read_rgb(larger), truth(name), border=2))
    print(f"Set5 x2: {np.mean(scores):.3f} dB", [f"{score:.2f}" for score in scores])
    records = [json.loads(path.read_text()) for path in sorted(RUNS.glob("x2_*.json"))]
    assert abs(np.mean(scores) - records[-1]["psnr_y"]["Set5"]) < 0.02


def test_fp16_loses_next_to_nothing_against_ground_truth(running):
    """With every FP16 tensor really rounded."""
    name = "woman"
    low = read_rgb(LOW / f"{name}x2.png")
    scores = []
    for fp16 in (False, True):
        run = running("pp-atd-light", "self-contained", fp16=fp16, optimise=not fp16)
        output = run.run(low)[OUTPUT][0].transpose(1, 2, 0)
        rgb = np.rint(output.clip(0, 1) * 255).astype(np.uint8)
        scores.append(psnr_y(rgb, truth(name), border=2))
    print(f"{name}: {scores[0]:.3f} dB in FP32, {scores[1]:.3f} dB in FP16")
    assert scores[0] - scores[1] < 0.05
