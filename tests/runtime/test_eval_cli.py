from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ppsr.models.config import PurePass
from ppsr.models.errors import PpsrError, UsageError
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime import eval_cli, methods
from ppsr.runtime.dataset import read_ground_truth
from ppsr.runtime.eval_cli import main
from ppsr.runtime.imresize import degrade
from ppsr.runtime.methods import Options, Request, parse, parse_all
from ppsr.runtime.metrics import psnr_y


@pytest.fixture
def folder(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with models and ground truth."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx", form="routed")
    write_model(tmp_path / "d.onnx", form="routed", model="atd-light", add=3 / 255)
    write_model(tmp_path / "x3.onnx", scale=3)
    (tmp_path / "set").mkdir()
    Image.fromarray(photo("coffee", 121, 165)).save(tmp_path / "set" / "a.png")
    Image.fromarray(photo("chelsea", 40, 60)).convert("L").save(tmp_path / "set" / "[b].png")
    (tmp_path / "other").mkdir()
    Image.fromarray(photo("astronaut", 48, 48)).save(tmp_path / "other" / "c.png")
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def test_one_model_prints_a_table_for_each_set(folder: Path) -> None:
    result = run("m.onnx", "--data", "set", "--data", "other", "--device", "cpu")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert ["set", "x2"] in lines
    assert ["other", "x2"] in lines
    assert ["picture", "PSNR", "Y", "not", "rounded", "SSIM", "Y", "pure", "ms"] in lines
    cells = {line[0]: line for line in lines}
    small, truth = degrade(read_ground_truth(folder / "set" / "a.png"), 2)
    larger = small.repeat(2, 0).repeat(2, 1)
    assert cells["a.png"][1:3] == [
        f"{psnr_y(larger, truth, 2):.2f}",
        f"{psnr_y(larger, truth, 2, rounded=False):.2f}",
    ]
    assert cells["a.png"][4] == f"{100 * purity_mask(small).mean():.1f}"
    assert "[b].png" in cells
    assert sum(line[:3] == ["mean", "of", "2"] for line in lines) == 1
    assert "m.onnx: pp-atd-light, exported model, fp32, weights 000000000000, CPU" in result.stdout


def test_two_models_print_their_difference(folder: Path) -> None:
    result = run("m.onnx", "d.onnx", "--data", "set", "--json", "a.json", "--csv", "a.csv")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    cells = next(line for line in lines if line[0] == "a.png")
    content = json.loads((folder / "a.json").read_text())
    picture = content["sets"][0]["rows"][1]
    scores = [picture["scores"][name]["psnr_y"] for name in ("m.onnx", "d.onnx")]
    assert cells[1:4] == [*(f"{s:.2f}" for s in scores), f"{scores[1] - scores[0]:+.3f}"]
    assert scores[1] < scores[0]
    assert picture["gain"]["psnr_y"] == scores[1] - scores[0]
    assert any(line[:3] == ["Y", "not", "rounded"] and len(line) == 6 for line in lines)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "A: m.onnx: pp-atd-light" in result.stdout
    assert "B: d.onnx: atd-light" in result.stdout
    assert "pure A" in result.stdout
    assert "pure B" not in result.stdout


def test_the_json_says_what_was_measured_and_how(folder: Path) -> None:
    arguments = ("bicubic", "m.onnx", "--data", "set", "--limit", "1", "--threads", "1")
    assert run(*arguments, "--json", "a.json", "--csv", "a.csv").exit_code == 0
    content = json.loads((folder / "a.json").read_text())
    assert content["command"][0] == "ppsr-eval"
    assert (content["scale"], content["limit"], content["threads"]) == (2, 1, 1)
    assert {"python", "numpy"} <= set(content["versions"])
    assert content["machine"]["cpu"]
    assert "BT.601" in content["protocol"]["luma"]
    first, second = content["methods"]
    assert (first["name"], first["model"], first["weights_sha256"]) == ("bicubic", "bicubic", None)
    assert list(first) == list(second)
    assert second["weights_sha256"] == "0" * 64
    assert second["pure_pass"]["shift"] == 4
    assert (second["file"], second["form"]) == ("m.onnx", "routed")
    assert [row["picture"] for row in content["sets"][0]["rows"]] == ["[b].png"]
    table = list(csv.DictReader((folder / "a.csv").read_text().splitlines()))
    assert [row["method"] for row in table] == ["bicubic", "m.onnx"]


def test_grey_pictures_take_part_and_every_file_is_left_alone(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run("bicubic", "--scale", "4", "--data", "set").exit_code == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


REFUSED = {
    "no model": (("--data", "set"), 2, "Missing argument"),
    "no data": (("m.onnx",), 2, "Missing option '--data'"),
    "three": (("m.onnx", "d.onnx", "bicubic", "--data", "set"), 2, "one model or two, got 3"),
    "twice": (("m.onnx", "m.onnx", "--data", "set"), 2, "m.onnx is given twice"),
    "folder twice": (("m.onnx", "--data", "set", "--data", "./set"), 2, "set is given twice"),
    "bicubic alone": (("bicubic", "--data", "set"), 2, "bicubic has no scale of its own"),
    "default alone": (("default", "--data", "set"), 2, "default has no scale of its own"),
    "scale": (("m.onnx", "--scale", "3", "--data", "set"), 2, "models for x3, got one for x2: m"),
    "scales": (("x3.onnx", "m.onnx", "--data", "set"), 2, "models for x3, got one for x2: m"),
    "scale 5": (("bicubic", "--scale", "5", "--data", "set"), 2, "'5' is not one of"),
    "engine": (("e.plan", "--data", "set", "--device", "cpu"), 2, "run the .onnx file instead"),
    "not a model": (("set/a.png", "--data", "set"), 2, "expected bicubic, default, or a file that"),
    "prefix": (("atd-light:m.onnx", "--data", "set"), 2, "goes before a checkpoint only"),
    "no file": (("no.onnx", "--data", "set"), 2, "cannot read no.onnx"),
    "ablation": (("m.onnx", "--no-shift", "--data", "set"), 2, "need a checkpoint run as pp-atd"),
    "dense ablation": (
        ("atd-light:w.pth", "--no-compensation", "--data", "set"),
        2,
        "need a checkpoint run as pp-atd",
    ),
    "no folder": (("m.onnx", "--data", "no"), 2, "a folder of pictures, got nothing there: no"),
    "no picture": (("m.onnx", "--data", "empty"), 2, "empty holds no picture"),
    "a picture": (("m.onnx", "--data", "set/a.png"), 2, "got a file: set/a.png"),
    "small": (("m.onnx", "--data", "tiny"), 2, "tiny/t.png is too small to measure at x2"),
    "json folder": (("m.onnx", "--data", "set", "--json", "no/a"), 2, "folder no does not exist"),
    "json model": (("m.onnx", "--data", "set", "--json", "./m.onnx"), 2, "another name with --js"),
    "csv picture": (("m.onnx", "--data", "set", "--csv", "set/a.png"), 2, "another name with --cs"),
    "json csv": (("m.onnx", "--data", "set", "--json", "a", "--csv", "./a"), 2, "choose two names"),
    "limit": (("m.onnx", "--data", "set", "--limit", "0"), 2, "0 is not in the range"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    (folder / "tiny").mkdir()
    Image.fromarray(np.zeros((15, 40, 3), np.uint8)).save(folder / "tiny" / "t.png")
    before = sorted(folder.rglob("*"))
    arguments, code, message = REFUSED[name]
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("error", [PpsrError("the model failed"), MemoryError(), KeyboardInterrupt])
def test_a_failure_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    (folder / "a.json").write_text("old")
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(methods, "imresize", fail)
    result = run(
        *("bicubic", "--scale", "2", "--data", "set", "--json", "a.json", "--csv", "a.csv")
    )
    assert result.exit_code == (130 if error is KeyboardInterrupt else 1)
    assert len(result.stderr.splitlines()) == 1
    assert (folder / "a.json").read_text() == "old"
    assert sorted(folder.rglob("*")) == before


def test_both_reports_are_written_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail_later(_: int) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail_later)
    before = sorted(folder.rglob("*"))
    result = run("m.onnx", "--data", "set", "--json", "a.json", "--csv", "a.csv")
    assert result.exit_code == 1
    assert result.stderr == "Error: cannot write a.json, a.csv: No space left on device\n"
    assert sorted(folder.rglob("*")) == before


def test_a_terminal_sees_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("m.onnx", "--data", "set")
    assert run(*arguments).stderr == ""
    monkeypatch.setattr(eval_cli.Console, "is_terminal", property(lambda console: console.stderr))
    assert "2/2" in run(*arguments).stderr


def test_names_are_read() -> None:
    options = Options()
    masked, dense = PurePass(), None
    for text, expected in {
        "bicubic": Request("bicubic", None, None),
        "a.onnx": Request("a.onnx", None, None),
        "default": Request("default", "pp-atd-light", masked),
        "a.PTH": Request("a.PTH", "pp-atd-light", masked),
        "atd-light:b/a.safetensors": Request("b/a.safetensors", "atd-light", dense),
        "pp-atd-light:default": Request("default", "pp-atd-light", masked),
    }.items():
        assert parse(text, options) == expected
    assert parse("default", Options(model="atd-light")).model == "atd-light"
    assert parse("atd-light:default", options).name() == "atd-light:default"
    ablated = Options(scale=2, pure_pass=PurePass(shift=0, compensation=False))
    (request,) = parse_all(["b/a.pth"], ablated)
    assert request.name() == "pp-atd-light:a.pth, no shift, no compensation"
    assert request.name(whole=True).startswith("pp-atd-light:b/a.pth,")
    with pytest.raises(UsageError, match="given twice"):
        parse_all(["default", "pp-atd-light:default"], Options(scale=2))


def test_two_files_of_one_name_are_told_apart(folder: Path, write_model: Callable) -> None:
    write_model(folder / "other" / "m.onnx", add=1 / 255)
    assert run("m.onnx", "other/m.onnx", "--data", "set", "--json", "a.json").exit_code == 0
    content = json.loads((folder / "a.json").read_text())
    assert [method["name"] for method in content["methods"]] == ["m.onnx", "other/m.onnx"]


def test_what_the_mask_costs_in_one_command(folder: Path, photo: Callable) -> None:
    torch = pytest.importorskip("torch")
    Image.fromarray(photo("coffee", 64, 80)).save(folder / "other" / "c.png")  # Nearly all pure.
    threads = torch.get_num_threads()
    result = run(
        *("atd-light:default", "default", "--scale", "2", "--data", "other"),
        *("--device", "cpu", "--threads", "1", "--json", "a.json"),
    )
    assert result.exit_code == 0, result.output
    assert torch.get_num_threads() == threads
    content = json.loads((folder / "a.json").read_text())
    dense, masked = content["methods"]
    assert (dense["name"], masked["name"]) == ("atd-light:default", "pp-atd-light:default")
    assert dense["weights_sha256"] == masked["weights_sha256"]
    assert (dense["pure_pass"], masked["pure_pass"]["window"]) == (None, 8)
    assert (masked["runs"], masked["device"]) == ("network", "CPU")
    gain = content["sets"][0]["mean"]["gain"]["psnr_y"]
    assert 0 < abs(gain) < 0.5


def test_the_paper_s_ablations(folder: Path) -> None:
    pytest.importorskip("torch")
    arguments = ("bicubic", "default", "--scale", "2", "--data", "set", "--limit", "1")
    options = ("--threads", "1", "--no-shift", "--no-compensation", "--json", "a.json")
    assert run(*arguments, *options).exit_code == 0
    content = json.loads((folder / "a.json").read_text())
    method = content["methods"][1]
    assert method["name"] == "pp-atd-light:default, no shift, no compensation"
    assert (method["pure_pass"]["shift"], method["pure_pass"]["compensation"]) == (0, False)
    assert content["sets"][0]["mean"]["gain"]["psnr_y"] > 0  # Bicubic is beaten nevertheless.


def test_a_wrong_checkpoint_is_one_line(folder: Path) -> None:
    pytest.importorskip("torch")
    (folder / "w.pth").write_text("no checkpoint")
    for name, message in (
        ("w.pth", "expected a .pth or .safetensors file, got a file that starts with"),
        ("atd-light:no.safetensors", "expected a checkpoint file, got no such file"),
    ):
        result = run(name, "--data", "set")
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_missing_torch_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "ppsr.runtime.eager", raising=False)
    monkeypatch.delattr("ppsr.runtime.eager", raising=False)
    result = run("default", "--scale", "2", "--data", "set")
    assert result.exit_code == 4
    assert result.stderr == (
        "Error: a checkpoint needs torch and safetensors: pip install 'ppsr[export]'\n"
    )
    assert run("bicubic", "--scale", "2", "--data", "set").exit_code == 0


def test_importing_is_cheap() -> None:
    code = (
        "import sys, ppsr.runtime.eval_cli\n"
        "print({'torch', 'onnx', 'onnxruntime', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_help_says_what_is_measured() -> None:
    output = " ".join(run("--help").output.split())
    for words in (
        *("as MATLAB's bicubic imresize does", "luma (BT.601) rounded to integers"),
        *("Grey pictures are taken as RGB", "atd-light:CHECKPOINT without it"),
    ):
        assert words in output, words
