"""ppsr-export: what it says, what it writes, and how it ends."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result

from ppsr.export import graphs, pipeline
from ppsr.models.errors import ParityError
from ppsr.runtime import Upscaler
from ppsr.runtime.artefact import INPUT, OUTPUT

Real = tuple[Result, Path]


@pytest.fixture(scope="session")
def real(
    command: Callable,
    traced: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Real:
    """ppsr-export --scale 2 --form self-contained. The trace is the one the other tests use."""
    traced("pp-atd-light")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("real")
        patch.chdir(folder)
        patch.setattr(pipeline, "trace_network", lambda *_: traced("pp-atd-light"))
        result = command("--scale", "2", "--form", "self-contained", "--target", "onnx")
    return result, folder / "artifacts"


def test_exports_the_shipped_network(real: Real, network: Callable) -> None:
    result, folder = real
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == [
        *("pp-atd-light_x2_fp32.onnx", "pp-atd-light_x2_fp32.onnx.json"),
    ]
    data = (folder / "pp-atd-light_x2_fp32.onnx").read_bytes()
    sidecar = json.loads((folder / "pp-atd-light_x2_fp32.onnx.json").read_text())
    assert sidecar["onnx_sha256"] == hashlib.sha256(data).hexdigest()
    assert sidecar["weights_sha256"] == network("pp-atd-light").weights_sha256
    assert len(sidecar["parity"]) == len(graphs.VERIFIED_SIZES)
    assert max(report["max_abs"] for report in sidecar["parity"]) <= 1e-4
    assert sidecar["profiles"] == []
    weights = 753_204 * 4
    assert weights < len(data) < 1.25 * weights
    for word in (str(folder).encode(), b"/home", b"/work", b".py", b"stack_trace"):
        assert word not in data
    model = onnx.ModelProto.FromString(data)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == [INPUT, OUTPUT]


def test_tells_what_it_does(real: Real) -> None:
    output = real[0].output
    for words in (
        *("trace the network", "graph surgery", "join the front end", "verify self-contained"),
        *("artifacts/pp-atd-light_x2_fp32.onnx", "16 x 16", "max difference", "PSNR"),
        *("No engine was built, as asked", "Next: ppsr-run artifacts/pp-atd-light_x2_fp32.onnx"),
    ):
        assert words in output, words
    assert re.search(r"\d\.\d s  publish", output)
    assert output.count(" dB ") == len(graphs.VERIFIED_SIZES)


def test_the_file_upscales_a_photo(real: Real, photo: Callable) -> None:
    rgb = photo("chelsea", 45, 70)
    with Upscaler.open(real[1] / "pp-atd-light_x2_fp32.onnx", device="cpu") as upscaler:
        out = upscaler(rgb)
    assert out.shape == (90, 140, 3)
    assert np.abs(out[::2, ::2].astype(int) - rgb).mean() < 10


REFUSED: dict[str, tuple[list[str], str]] = {
    "scale": (["--scale", "5"], "'5' is not one of '2', '3', '4'"),
    "model": (["--model", "edsr"], "'edsr' is not one of"),
    "form": (["--form", "static"], "'static' is not one of"),
    "opset": (["--opset", "17"], "'17' is not one of"),
    "unknown option": (["--bf16"], "No such option"),
    "int8 alone": (["--int8"], "expected int8 to come with ranges, calibration FILE, or with data"),
    "two precisions": (
        ["--fp16", "--recipe", "file"],
        "expected one precision, got fp16 and recipe",
    ),
    "ranges": (["--int8", "--calibration", "file"], "file is no file of ranges (it is no JSON)"),
    "recipe": (["--recipe", "none.toml"], "cannot read the recipe none.toml: No such file"),
    "data": (["--int8", "--data", "none"], "none"),
    "estimator": (["--estimator", "mean"], "'mean' is not one of 'minmax', 'percentile', "),
    "argument": (["photo.jpg"], "unexpected extra argument"),
    "shape": (["--min-shape", "64"], "expected HEIGHTxWIDTH such as 360x640, got '64'"),
    "shape of three": (["--opt-shape", "1x2x3"], "expected HEIGHTxWIDTH"),
    "shape of nothing": (["--max-shape", "0x64"], "at least 1x1, got 0x64"),
    "order of shapes": (["--min-shape", "400x64"], "expected min <= opt <= max"),
    "atol": (["--atol", "0"], "expected an atol above 0"),
    "no number": (["--atol", "small"], "'small' is not a valid float"),
    "target": (["--target", "cuda"], "'cuda' is not one of 'auto', 'onnx', 'onnxruntime', "),
    "fp16 for CPUs": (["--target", "openvino", "--fp16"], "expected no fp16 for the target openv"),
    "weights": (["--weights", "no/such.safetensors"], "no/such.safetensors"),
    "output": (["-o", "file"], "expected a folder to write to, file is a file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments, message = REFUSED[name]
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_engine_profile_reaches_the_sidecar(
    tiny_export: None, command: Callable, tmp_path: Path
) -> None:
    result = command(
        *("--form", "routed", "--target", "onnx", "--no-verify", "-o", tmp_path),
        *("--min-shape", "16x16", "--opt-shape", "100X200", "--max-shape", "256x256"),
    )
    assert result.exit_code == 0, result.output
    assert "not verified" in result.output
    sidecar = json.loads((tmp_path / "pp-atd-light_x2_fp32_routed.onnx.json").read_text())
    (profile,) = sidecar["profiles"]
    tokens = [0, round(0.6 * 112 * 208), 256 * 256]
    assert profile == {"min": [16, 16], "opt": [112, 208], "max": [256, 256], "tokens": tokens}


def test_fp16_tells_its_largest_value(tiny_export: None, command: Callable, tmp_path: Path) -> None:
    result = command("--fp16", "--form", "routed", "--target", "onnx", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert re.search(r"largest FP16 value \d+ \(FP16 holds 65504\)", result.output)
    assert (tmp_path / "pp-atd-light_x2_fp16_routed.onnx").is_file()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ParityError("it differs; nothing was written"), 3, "Error: it differs"),
        (KeyboardInterrupt(), 130, "Error: interrupted"),
        (MemoryError(), 1, "Error: not enough memory"),
    ],
)
@pytest.mark.parametrize("where", ["pipeline.trace_network", "graphs.verify", "pipeline._publish"])
def test_failures_leave_nothing_behind(
    tiny_export: None,
    command: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
    where: str,
) -> None:
    def fail(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(f"ppsr.export.{where}", fail)
    result = command("--target", "onnx", "-o", tmp_path / "out")
    assert result.exit_code == code
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_tolerance_that_is_too_tight_fails_verification(
    tiny_export: None, command: Callable, tmp_path: Path
) -> None:
    """1e-9 is below the last digit of float32."""
    result = command("--target", "onnx", "--form", "routed", "--atol", "1e-9", "-o", tmp_path)
    assert result.exit_code == 3
    assert "outputs differ by" in result.stderr
    assert "nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["torch", "onnx", "onnx_graphsurgeon"])
def test_a_missing_package_is_told(package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import ppsr.export.cli as c; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "-o", "out"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"Error: exporting needs the package {package}: pip install 'ppsr[export,cpu]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_help_and_wrong_options_need_no_torch() -> None:
    code = (
        "import sys\n"
        "import ppsr.export, ppsr.export.cli\n"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_help(command: Callable) -> None:
    result = command("--help")
    assert result.exit_code == 0
    for option in ("--scale", "--fp16", "--form", "--weights", "--no-verify", "--opt-shape"):
        assert option in result.output
