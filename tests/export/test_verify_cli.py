"""ppsr-verify: what it says, what it writes, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper
from PIL import Image
from rich.console import Console

from ppsr.export import reproof
from ppsr.export.verify_cli import main
from ppsr.models.errors import PpsrError
from ppsr.runtime.sidecar import read_sidecar, sidecar_path


def run(*arguments: str | Path) -> Result:
    """``ppsr-verify`` on one thread of the CPU; whatever happens, no traceback."""
    options = ("--threads", "1", "--device", "cpu")
    result = CliRunner().invoke(main, [*map(str, arguments), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def perturb(model: onnx.ModelProto) -> None:
    """Make the last weight of the feed-forward networks a tenth larger."""
    tensor = [one for one in model.graph.initializer if "depthwise_conv.0.weight" in one.name][-1]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, tensor.name))


@pytest.fixture
def folder(
    tiny_reproof: None, publish: Callable, photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder: a model file, pictures, and what is none."""
    path: Path = publish(file="m.onnx").parent
    monkeypatch.chdir(path)
    (path / "set").mkdir()
    (path / "empty").mkdir()
    Image.fromarray(photo("coffee", 40, 48)).save(path / "set" / "[a].png")
    (path / "broken.png").write_text("no picture")
    (path / "foreign.onnx").write_text("no graph")
    (path / "w.safetensors").write_text("no weights")
    (path / "e.plan").write_text("no engine")
    return path


def test_a_good_file_passes(folder: Path, publish: Callable) -> None:
    publish(form="self-contained", file="s.onnx")
    for name, form in (("m.onnx", "routed"), ("s.onnx", "self-contained")):
        result = run(name)
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[-1] == "passed"
        assert f"artefact:  {name} (fp32, {form}, CPU, weights 777777777777)" in lines
        assert "reference: pp-atd-light in torch, shipped weights (fp32, CPU" in result.stdout
        assert "(allowed: 0.01)" in result.stdout
        rows = [line for line in lines if line.strip().startswith("coffee ")]
        assert len(rows) == 2
        assert all(" 100 % " in row for row in rows)
        table = lines[: next(i for i, line in enumerate(lines) if line.startswith("artefact:"))]
        assert max(map(len, table)) <= 80
        told = read_sidecar(folder / name)
        assert told is not None
        assert told.verification is not None
        assert told.verification["passed"] is True


def test_fp16_may_lose_more(folder: Path, publish: Callable) -> None:
    publish(fp16=True, file="h.onnx")
    result = run("h.onnx", "m.onnx", "--data", "set")
    assert result.exit_code == 0, result.output
    assert "(allowed: 0.02)" in result.stdout
    assert "set/[a].png" in result.stdout


def test_a_changed_weight_is_one_line_and_exit_code_3(folder: Path, publish: Callable) -> None:
    publish(file="bad.onnx", change=perturb)
    result = run("bad.onnx", "--json", "a.json")
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: bad.onnx fails: coffee ")
    assert "on equal categories outputs differ by" in line
    assert "allowed is 1e-05" in line
    assert "passed" not in result.stdout
    told = read_sidecar(folder / "bad.onnx")
    assert told is not None
    assert told.verification is not None
    assert told.verification["passed"] is False
    assert json.loads((folder / "a.json").read_text())["failure"] in line


def test_the_gate_is_on_the_mean(folder: Path, publish: Callable) -> None:
    """A file that equals its reference but for the truth: the limit alone decides."""
    publish(file="bad.onnx", change=perturb)
    drop = json.loads(_json(run("bad.onnx", "m.onnx", "--json", "a.json"), folder / "a.json"))
    loses = drop["overall"]["psnr_y"]["drop"]
    backwards = json.loads(_json(run("m.onnx", "bad.onnx", "--json", "b.json"), folder / "b.json"))
    assert backwards["overall"]["psnr_y"]["drop"] == pytest.approx(-loses)
    name, other = ("bad.onnx", "m.onnx") if loses > 0 else ("m.onnx", "bad.onnx")
    allowed = run(name, other, "--max-psnr-drop", str(abs(loses) + 1e-6))
    assert allowed.exit_code == 0, allowed.output
    missed = run(name, other, "--max-psnr-drop", str(abs(loses) / 2))
    assert missed.exit_code == 3
    (line,) = missed.stderr.splitlines()
    assert f"PSNR against the truth is {abs(loses):.4f} dB lower on average, allowed is" in line


def _json(result: Result, path: Path) -> str:
    assert result.exit_code in (0, 3), result.output
    return path.read_text()


def test_a_swapped_sidecar_is_exit_code_3(folder: Path, publish: Callable) -> None:
    other = publish(form="self-contained", file="s.onnx")
    sidecar_path(folder / "m.onnx").write_bytes(sidecar_path(other).read_bytes())
    result = run("m.onnx")
    assert (result.exit_code, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: m.onnx.json describes another file: m.onnx has SHA-256 ")


def test_the_json_holds_everything(folder: Path) -> None:
    assert run("m.onnx", "--data", "set", "--json", "a.json").exit_code == 0
    content = json.loads((folder / "a.json").read_text())
    assert content["command"][0] == "ppsr-verify"
    assert content["machine"]["cpu"]
    assert (content["passed"], content["failure"], content["max_psnr_drop"]) == (True, None, 0.01)
    assert (content["data"], content["threads"]) == (["set"], 1)
    assert content["artefact"]["name"] == "m.onnx"
    assert content["artefact"]["form"] == "routed"
    assert content["reference"]["sha256"] is None
    assert {"python", "torch", "onnxruntime"} <= set(content["versions"])
    (row,) = content["rows"]
    assert (row["picture"], row["size"]) == ("set/[a].png", [20, 24])
    assert row["mask_agreement"] == 1
    assert row["equal_categories"]["max_abs"] <= 1e-5
    assert set(row["psnr_y"]) == {"reference", "artefact", "drop"}
    assert content["overall"]["pictures"] == 1
    assert content["overall"]["psnr_y"] == row["psnr_y"]
    told = read_sidecar(folder / "m.onnx")
    assert told is not None
    assert told.verification is not None
    assert told.verification["rows"] == content["rows"]
    assert run("m.onnx", "--data", "set").exit_code == 0  # Again, over what is recorded.


def test_no_record_leaves_the_sidecar_alone(folder: Path) -> None:
    before = sidecar_path(folder / "m.onnx").read_bytes()
    result = run("m.onnx", "--data", "set/[a].png", "--no-record")
    assert result.exit_code == 0
    assert "note: the figures are not recorded, as asked" in result.stdout
    assert sidecar_path(folder / "m.onnx").read_bytes() == before


def test_a_sidecar_that_cannot_be_written_is_told_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar_path(folder / "m.onnx").chmod(0o444)
    monkeypatch.setattr(reproof, "GraphContestant", None)
    result = run("m.onnx")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: cannot write m.onnx.json: it is read-only; --no-record leaves it alone\n"
    )


def test_a_terminal_sees_what_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("m.onnx", "--data", "set").stderr == ""
    monkeypatch.setattr(Console, "is_terminal", property(lambda console: console.stderr))
    assert "set/[a].png ..." in run("m.onnx", "--data", "set").stderr


def test_no_sidecar_is_a_note(folder: Path) -> None:
    sidecar_path(folder / "m.onnx").unlink()
    result = run("m.onnx", "--data", "set")
    assert result.exit_code == 0
    assert "note: there is no m.onnx.json: no hash was compared" in result.stdout
    assert not sidecar_path(folder / "m.onnx").exists()


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no artefact": ((), 2, "Missing argument 'ARTEFACT'"),
    "missing": (("no.onnx",), 2, "cannot read no.onnx: No such file"),
    "a folder": (("set",), 2, "set is a folder"),
    "not ONNX": (("foreign.onnx",), 2, "foreign.onnx is no ONNX file that onnxruntime can load"),
    "a picture": (("broken.png",), 2, "a model file that ends in .onnx or .plan, got broken.png"),
    "a checkpoint": (("w.safetensors",), 2, "is a checkpoint, not a model file"),
    "an engine": (("e.plan",), 2, "e.plan is a TensorRT engine; on the CPU run the .onnx file"),
    "reference missing": (("m.onnx", "no.onnx"), 2, "cannot read no.onnx"),
    "itself": (("m.onnx", "./m.onnx"), 2, "m.onnx is the artefact itself"),
    "both references": (("m.onnx", "w.safetensors", "--weights", "w.safetensors"), 2, "--weights"),
    "three": (("m.onnx", "a", "b"), 2, "unexpected extra argument"),
    "drop": (("m.onnx", "--max-psnr-drop", "-1"), 2, "0 dB or more, got -1"),
    "drop is a word": (("m.onnx", "--max-psnr-drop", "none"), 2, "is not a valid float"),
    "no data": (("m.onnx", "--data", "no"), 2, "a folder of pictures, got nothing there: no"),
    "no picture": (("m.onnx", "--data", "empty"), 2, "empty holds no picture"),
    "broken": (("m.onnx", "--data", "broken.png"), 2, "broken.png is no picture"),
    "data twice": (("m.onnx", "--data", "set", "--data", "./set"), 2, "given twice"),
    "json folder": (("m.onnx", "--json", "no/a.json"), 2, "the folder no does not exist"),
    "json model": (("m.onnx", "--json", "./m.onnx"), 2, "another name with --json"),
    "json sidecar": (("m.onnx", "--json", "m.onnx.json"), 2, "another name with --json"),
    "json picture": (
        ("m.onnx", "--data", "set", "--json", "set/[a].png"),
        2,
        "another name with --json",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(folder: Path, name: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments, code, message = REFUSED[name]
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_wrong_references(folder: Path, publish: Callable) -> None:
    def called(**changes: str) -> Callable[[onnx.ModelProto], None]:
        def change(model: onnx.ModelProto) -> None:
            for entry in model.metadata_props:
                entry.value = changes.get(entry.key, entry.value)

        return change

    options: dict[str, Any] = {"form": "self-contained", "sidecar": False}
    publish(file="x3.onnx", change=called(scale="3"), **options)
    publish(file="dense.onnx", change=called(model="atd-light", pure_pass="null"), **options)
    for name, words in (
        ("x3.onnx", "x3.onnx is no reference for m.onnx: expected scale 2, got 3"),
        ("dense.onnx", "expected model pp-atd-light, got atd-light"),
    ):
        result = run("m.onnx", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_wrong_weights(publish: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    path: Path = publish(file="m.onnx")  # Of the tiny network, which nothing else holds.
    monkeypatch.chdir(path.parent)
    Path("w.safetensors").write_text("no weights")
    for arguments, words in (
        ((), "was made from the weights 777777777777, got 24b756b7e16d (the shipped ones); name"),
        (("w.safetensors",), "w.safetensors: expected a .pth or .safetensors file"),
        (("--weights", "w.safetensors"), "w.safetensors: expected a .pth or .safetensors file"),
        (("--weights", "no.pth"), "no.pth: expected a checkpoint file, got no such file"),
    ):
        result = run("m.onnx", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PpsrError("it broke"), 1, "it broke"),
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GB"), 1, "not enough memory"),
    ],
)
def test_failures_leave_every_file_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(reproof.EagerContestant, "run", fail)
    result = run("m.onnx", "--json", "a.json")
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_a_missing_package_is_told(package: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\nimport ppsr.export.verify_cli as c; c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "m.onnx"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"Error: verifying needs the package {package}: pip install 'ppsr[export,cpu]'\n"
    )


def test_importing_is_cheap() -> None:
    code = (
        "import sys, ppsr.export.verify_cli\n"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_help_says_what_the_columns_mean() -> None:
    output = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for words in ("equal cat.", "Exit code 3", "--max-psnr-drop", "0.01 for FP32", "--no-record"):
        assert words in output, words


def test_the_arrays_of_the_report_are_strict_json(folder: Path, publish: Callable) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        (tensor,) = (one for one in model.graph.initializer if "upsample.0.bias" in one.name)
        values = np.full_like(numpy_helper.to_array(tensor), np.nan)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    publish(file="bad.onnx", change=spoil)
    result = run("bad.onnx", "--json", "a.json")
    assert result.exit_code == 3
    assert "values of the output are not finite, expected none" in result.stderr
    for path in (folder / "a.json", sidecar_path(folder / "bad.onnx")):
        json.loads(path.read_text(), parse_constant=refuse)
