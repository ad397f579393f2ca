from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import ImageCms

from ppsr.models.errors import PpsrError
from ppsr.runtime import cli
from ppsr.runtime.image import Picture, read_picture, write_picture
from ppsr.runtime.upscaler import Upscaler

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def folder(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with a model and a photo."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx", form="routed")
    write_picture(tmp_path / "photo.png", Picture(photo(), PROFILE))
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_makes_the_picture_larger_beside_the_input(folder: Path, photo: Callable) -> None:
    result = run("m.onnx", "photo.png")
    assert result.exit_code == 0
    assert re.fullmatch(
        r"photo\.png 61 x 83 -> photo_x2\.png 122 x 166 · \d+\.\d % pure · \d+ ms · CPU · "
        r"pp-atd-light x2 fp32\n",
        result.stdout,
    )
    back = read_picture(folder / "photo_x2.png")
    np.testing.assert_array_equal(back.rgb, photo().repeat(2, 0).repeat(2, 1))
    assert result.stderr == ""
    assert names(folder) == ["m.onnx", "photo.png", "photo_x2.png"]


def test_the_colour_profile_reaches_the_output(folder: Path) -> None:
    assert run("m.onnx", "photo.png").exit_code == 0
    assert read_picture(folder / "photo_x2.png").profile == PROFILE


def test_a_dense_model_has_no_share(folder: Path, write_model: Callable) -> None:
    write_model(folder / "d.onnx", model="atd-light")
    result = run("d.onnx", "photo.png", "--threads", "1", "--device", "cpu")
    assert "pure" not in result.stdout
    assert "atd-light x2 fp32" in result.stdout


def test_output_names_the_format_and_is_replaced(folder: Path) -> None:
    (folder / "out.webp").write_bytes(b"old")
    assert run("m.onnx", "photo.png", "-o", "out.webp", "--quiet").output == ""
    assert read_picture(folder / "out.webp").rgb.shape == (122, 166, 3)


REFUSED = {
    "the input": (("m.onnx", "photo.png", "-o", "photo.png"), 2, "photo.png is the input"),
    "the input by another name": (
        ("m.onnx", "photo.png", "-o", "./sub/../photo.png"),
        2,
        "is the input",
    ),
    "suffix": (("m.onnx", "photo.png", "-o", "a.gif"), 2, "ends in .png, .jpg"),
    "output folder": (("m.onnx", "photo.png", "-o", "no/a.png"), 2, "folder no does not exist"),
    "folder as output": (("m.onnx", "photo.png", "-o", "sub.png"), 2, "it is a folder"),
    "no picture": (("m.onnx", "no.png"), 2, "no.png does not exist"),
    "folder": (("m.onnx", "sub"), 2, "sub is a folder; give one picture"),
    "text": (("m.onnx", "text.png"), 2, "text.png is no picture; accepted are"),
    "model as picture": (("m.onnx", "m.onnx"), 2, "m.onnx is no picture"),
    "picture as model": (("photo.png", "photo.png"), 2, "ends in .onnx"),
    "no model": (("no.onnx", "photo.png"), 2, "cannot read no.onnx: No such file"),
    "checkpoint": (("w.pth", "photo.png"), 2, "export it first with ppsr-export"),
    "engine on the CPU": (("e.plan", "photo.png", "--device", "cpu"), 2, "run the .onnx file"),
    "cuda": (("m.onnx", "photo.png", "--device", "cuda"), 4, "CUDA was asked for"),
    "device": (("m.onnx", "photo.png", "--device", "tpu"), 2, "'tpu' is not one of"),
    "threads": (("m.onnx", "photo.png", "--threads", "0"), 2, "0 is not in the range"),
    "arguments": (("m.onnx",), 2, "Missing argument 'IMAGE'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(folder: Path, name: str) -> None:
    if name == "cuda":
        onnxruntime = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime may have CUDA")
    (folder / "sub").mkdir()
    (folder / "sub.png").mkdir()
    (folder / "text.png").write_text("no picture\n")
    before = names(folder)
    arguments, code, message = REFUSED[name]
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert names(folder) == before


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PpsrError("the model failed"), 1, "Error: the model failed\n"),
        (MemoryError(), 1, "Error: not enough memory; use a smaller picture\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted\n"),
    ],
)
@pytest.mark.parametrize("where", ["model", "writing"])
def test_a_failure_leaves_the_old_output(
    folder: Path,
    fake: Callable,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
    where: str,
) -> None:
    (folder / "photo_x2.png").write_bytes(b"old")

    def fail(_: int) -> None:
        raise error

    if where == "model":
        backend = fake(error=error)
        monkeypatch.setattr(Upscaler, "open", lambda *_: Upscaler(backend))
    else:
        monkeypatch.setattr(os, "fsync", fail)
    result = run("m.onnx", "photo.png")
    assert (result.exit_code, result.output) == (code, message)
    assert (folder / "photo_x2.png").read_bytes() == b"old"
    assert names(folder) == ["m.onnx", "photo.png", "photo_x2.png"]


def test_a_format_that_is_too_small_is_told_before_the_model_runs(
    folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = fake()
    monkeypatch.setattr(Upscaler, "open", lambda *_: Upscaler(backend))
    write_picture(folder / "wide.png", Picture(np.zeros((1, 8192, 3), np.uint8)))
    result = run("m.onnx", "wide.png", "-o", "wide.webp")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "2 x 16384 pixels, but .webp holds at most 16383 a side; write .png" in result.stderr
    assert not backend.feeds


def test_help_says_what_is_replaced_and_dropped() -> None:
    output = " ".join(run("--help").output.split())
    assert "EXIF, GPS and XMP are dropped" in output
    assert "An output that exists already is replaced; IMAGE itself never is." in output


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.2.3")
    result = run("--version")
    assert result.exit_code == 0
    assert "1.2.3" in result.output


def test_importing_is_cheap() -> None:
    code = (
        "import sys, ppsr.runtime, ppsr.runtime.cli, ppsr.runtime.bench_cli\n"
        "assert ppsr.runtime.Upscaler.__name__ == 'Upscaler'\n"
        "assert not hasattr(ppsr.runtime, 'other')\n"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
