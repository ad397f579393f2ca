from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvips
from click.testing import CliRunner, Result
from PIL import ImageCms
from rich.console import Console

from ppsr.models.errors import PpsrError
from ppsr.runtime import cli
from ppsr.runtime.batch import reports
from ppsr.runtime.batch.inputs import Source
from ppsr.runtime.batch.jobs import Job
from ppsr.runtime.command import memory_size
from ppsr.runtime.upscaler import Upscaler

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def folder(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with a model and a photo."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx", form="routed")
    save(tmp_path / "photo.png", photo())
    return tmp_path


@pytest.fixture
def many(folder: Path, photo: Callable) -> Path:
    """The working folder, with a tree of three photos more."""
    for name, picture in (
        ("in/a.png", "rocket"),
        ("in/b.png", "chelsea"),
        ("in/c/d.png", "coffee"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        save(folder / name, photo(picture, 33, 47))
    return folder


def save(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    image = pyvips.Image.new_from_array(rgb).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", PROFILE)
    image.write_to_file(str(path))


def read(path: Path | bytes) -> npt.NDArray[Any]:
    if isinstance(path, bytes):
        pixels: npt.NDArray[Any] = pyvips.Image.new_from_buffer(path, "").numpy()
    else:
        pixels = pyvips.Image.new_from_file(str(path)).numpy()
    return pixels


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli.main, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestOne:
    def test_makes_the_picture_larger_beside_the_input(self, folder: Path, photo: Callable) -> None:
        result = run("m.onnx", "photo.png")
        assert result.exit_code == 0
        assert re.fullmatch(
            r"photo\.png 61 x 83 -> photo_x2\.png 122 x 166 · \d+\.\d % pure · \d+ ms · CPU · "
            r"pp-atd-light x2 fp32\n",
            result.stdout,
        )
        enlarged = photo().repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(read(folder / "photo_x2.png"), enlarged)
        assert result.stderr == ""
        assert names(folder) == ["m.onnx", "photo.png", "photo_x2.png"]

    def test_the_colour_profile_reaches_the_output(self, folder: Path) -> None:
        assert run("m.onnx", "photo.png").exit_code == 0
        made = pyvips.Image.new_from_file("photo_x2.png")
        assert made.get("icc-profile-data") == PROFILE

    def test_a_dense_model_has_no_share(self, folder: Path, write_model: Callable) -> None:
        write_model(folder / "d.onnx", model="atd-light")
        result = run("d.onnx", "photo.png", "--threads", "1", "--device", "cpu")
        assert "pure" not in result.stdout
        assert "atd-light x2 fp32" in result.stdout

    def test_output_names_the_format_and_is_replaced(self, folder: Path) -> None:
        (folder / "out.webp").write_bytes(b"old")
        assert run("m.onnx", "photo.png", "-o", "out.webp", "--quiet").output == ""
        assert read(folder / "out.webp").shape == (122, 166, 3)

    def test_depth_and_quality(self, folder: Path) -> None:
        assert run("m.onnx", "photo.png", "--depth", "16").exit_code == 0
        assert read(folder / "photo_x2.png").dtype == np.uint16
        for quality in ("10", "95"):
            run("m.onnx", "photo.png", "-o", f"{quality}.jpg", "--quality", quality)
        assert (folder / "10.jpg").stat().st_size < (folder / "95.jpg").stat().st_size / 2

    def test_tiles_are_counted(self, folder: Path, photo: Callable) -> None:
        save(folder / "wide.png", photo("astronaut", 70, 200))
        result = run("m.onnx", "wide.png", "--tile", "64", "--overlap", "16", "--max-memory", "2G")
        assert re.search(r"% pure · \d+ tiles · \d+ ms", result.stdout)
        np.testing.assert_array_equal(
            read(folder / "wide_x2.png"), photo("astronaut", 70, 200).repeat(2, 0).repeat(2, 1)
        )

    def test_what_the_picture_does_not_show_is_noted(self, folder: Path, photo: Callable) -> None:
        image = pyvips.Image.new_from_array(photo()).bandjoin(128).copy(interpretation="srgb")
        image.write_to_file("alpha.png")
        result = run("m.onnx", "alpha.png", "--format", "jpeg")
        assert result.stdout.startswith("alpha.png 61 x 83 -> alpha_x2.jpg 122 x 166 · ")
        assert result.stdout.endswith(" · alpha laid on white: JPEG has none\n")


REFUSED = {
    "the input": (("m.onnx", "photo.png", "-o", "photo.png"), 2, "photo.png is the input"),
    "the input by another name": (
        ("m.onnx", "photo.png", "-o", "./sub/../photo.png"),
        2,
        "is the input",
    ),
    "suffix": (("m.onnx", "photo.png", "-o", "a.gif"), 2, "ends in .png, .jpg"),
    "output folder": (("m.onnx", "photo.png", "-o", "no/a.png"), 2, "folder no does not exist"),
    "no picture": (("m.onnx", "no.png"), 2, "no.png does not exist"),
    "empty folder": (("m.onnx", "sub"), 2, "sub holds no picture; expected files that end in"),
    "text": (("m.onnx", "text.png"), 2, "text.png is no picture; accepted are"),
    "model as picture": (("m.onnx", "m.onnx"), 2, "m.onnx is no picture"),
    "too many pixels": (("m.onnx", "photo.png", "--max-pixels", "5000"), 2, "raise --max-pixels"),
    "picture as model": (("photo.png", "photo.png"), 2, "ends in .onnx"),
    "no model": (("no.onnx", "photo.png"), 2, "cannot read no.onnx: No such file"),
    "checkpoint": (("w.pth", "photo.png"), 2, "export it first with ppsr-export"),
    "engine on the CPU": (("e.plan", "photo.png", "--device", "cpu"), 2, "run the .onnx file"),
    "cuda": (("m.onnx", "photo.png", "--device", "cuda"), 4, "CUDA was asked for"),
    "device": (("m.onnx", "photo.png", "--device", "tpu"), 2, "'tpu' is not one of"),
    "threads": (("m.onnx", "photo.png", "--threads", "0"), 2, "0 is not in the range"),
    "arguments": (("m.onnx",), 2, "Missing argument 'IMAGE"),
    "tile": (("m.onnx", "photo.png", "--tile", "big"), 2, "expected auto or a whole number"),
    "tile off the grid": (("m.onnx", "photo.png", "--tile", "70"), 2, "a multiple of 16"),
    "memory": (("m.onnx", "photo.png", "--max-memory", "4"), 2, "expected a size like 4G or 512M"),
    "another scale": (("m.onnx", "photo.png", "-s", "4"), 2, "expected a model for x4, got m.onnx"),
    "quality of PNG": (("m.onnx", "photo.png", "--quality", "50"), 2, "always lossless"),
    "too wide beside each other": (
        ("m.onnx", "wide.png", "-o", "x.png", "--compare", "x.webp"),
        2,
        "cannot write x.webp: 4 x 20000 pixels, but WebP holds",
    ),
    "depth of JPEG": (("m.onnx", "photo.png", "--format", "jpeg", "--depth", "16"), 2, "16 bits"),
    "quality": (("m.onnx", "photo.png", "--quality", "0"), 2, "0 is not in the range"),
    "mask without Pure-Pass": (("d.onnx", "photo.png", "--mask", "x.png"), 2, "no mask to show"),
    "two in one stream": (("m.onnx", "photo.png", "text.png", "-o", "-"), 2, "takes one picture"),
    "pictures and lines": (("m.onnx", "photo.png", "-o", "-", "--json"), 2, "both want standard"),
    "standard input without a name": (("m.onnx", "-"), 2, "name a file with --output"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    folder: Path, write_model: Callable, name: str
) -> None:
    if name == "cuda":
        onnxruntime = pytest.importorskip("onnxruntime")
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime may have CUDA")
    (folder / "sub").mkdir()
    (folder / "text.png").write_text("no picture\n")
    save(folder / "wide.png", np.zeros((2, 5000, 3), np.uint8))
    write_model(folder / "d.onnx", model="atd-light")
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
        (
            MemoryError(),
            1,
            "Error: not enough memory; use smaller tiles, or a smaller picture\n",
        ),
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


class TestMany:
    def test_a_tree_is_mirrored(self, many: Path) -> None:
        result = run("m.onnx", "in", "photo.png", "--recursive", "-o", "out/here")
        assert result.exit_code == 0
        told = [line.split(" · ")[0] for line in result.stdout.splitlines()]
        assert told == [
            "a.png 33 x 47 -> a_x2.png 66 x 94",
            "b.png 33 x 47 -> b_x2.png 66 x 94",
            "c/d.png 33 x 47 -> d_x2.png 66 x 94",
            "photo.png 61 x 83 -> photo_x2.png 122 x 166",
        ]
        made = sorted(path for path in (many / "out").rglob("*") if path.is_file())
        assert [str(path.relative_to(many / "out/here")) for path in made] == [
            *("a_x2.png", "b_x2.png", "c/d_x2.png", "photo_x2.png")
        ]

    def test_in_place_and_again(self, many: Path) -> None:
        """The second time the first outputs are neither inputs nor made again."""
        assert run("m.onnx", "in", "--name", "{stem}@{scale}").exit_code == 0
        before = {path: path.stat().st_mtime_ns for path in (many / "in").iterdir()}
        result = run("m.onnx", "in", "--name", "{stem}@{scale}", "--skip-existing")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "a.png skipped · exists",
            "a@2.png skipped · is itself made of in/a.png",
            "b.png skipped · exists",
            "b@2.png skipped · is itself made of in/b.png",
        ]
        assert {path: path.stat().st_mtime_ns for path in (many / "in").iterdir()} == before

    def test_stops_at_the_first_failure_with_its_own_code(self, many: Path) -> None:
        (many / "in/b.png").write_text("no picture")
        result = run("m.onnx", "in", "--recursive", "-o", "out")
        assert result.exit_code == 2
        assert result.stdout.count("\n") == 1
        assert result.stderr.splitlines()[-1].startswith("Error: in/b.png is no picture")
        assert names(many / "out") == ["a_x2.png"]

    def test_or_goes_on_and_names_what_failed(self, many: Path) -> None:
        (many / "in/a.png").write_text("no picture")
        result = run("m.onnx", "in", "--recursive", "-o", "out", "--keep-going")
        assert result.exit_code == 5
        assert result.stdout.count("\n") == 2
        first, last = result.stderr.splitlines()
        assert first.startswith("failed: in/a.png is no picture")
        assert last == "Error: 1 of 3 failed: in/a.png"
        assert names(many / "out") == ["b_x2.png", "c"]

    def test_or_makes_what_is_there_of_what_was_named(self, many: Path) -> None:
        arguments = ("m.onnx", "photo.png", "no.png", "in/a.png", "-o", "out")
        result = run(*arguments)
        assert (result.exit_code, result.stderr) == (2, "Error: no.png does not exist\n")
        assert not (many / "out").exists(), "what is missing is told before anything is done"
        result = run(*arguments, "--keep-going")
        assert result.exit_code == 5
        assert result.stderr.splitlines() == [
            "failed: no.png does not exist",
            "Error: 1 of 3 failed: no.png",
        ]
        assert names(many / "out") == ["a_x2.png", "photo_x2.png"]

    def test_overlays(self, many: Path) -> None:
        result = run("m.onnx", "in", "-o", "out", "--mask", "masks", "--compare", "both")
        assert result.exit_code == 0
        for where, shape in (("masks", (33, 47, 3)), ("both", (66, 188, 3))):
            assert names(many / where) == ["a_x2.png", "b_x2.png"]
            assert read(many / where / "a_x2.png").shape == shape
        assert run("m.onnx", "photo.png", "--mask", "m.png", "--compare", "c.jpg").exit_code == 0
        assert read(many / "m.png").shape == (61, 83, 3)
        assert read(many / "c.jpg").shape == (122, 332, 3)


class TestMachines:
    def test_one_object_for_each_picture(self, many: Path) -> None:
        (many / "in/b.png").write_text("no picture")
        (many / "out/c").mkdir(parents=True)
        (many / "out/c/d_x2.png").write_bytes(b"made")
        arguments = ("m.onnx", "in", "-o", "out", "--recursive", "--json", "--skip-existing")
        result = run(*arguments, "--keep-going")
        assert result.exit_code == 5
        done, failed, skipped = lines(result)
        assert done.pop("milliseconds") > 0
        assert 0 <= done.pop("pure") <= 1
        assert done == {
            "input": "in/a.png",
            "output": "out/a_x2.png",
            "mask": None,
            "compare": None,
            "status": "done",
            "error": None,
            "input_size": [33, 47],
            "output_size": [66, 94],
            "tiles": 1,
            "kept": None,
            "notes": [],
        }
        assert (failed["status"], failed["output_size"]) == ("failed", None)
        assert failed["error"].startswith("in/b.png is no picture")
        assert (skipped["status"], skipped["notes"]) == ("skipped", ["exists"])

    def test_a_failure_that_ends_the_batch_is_an_object_too(self, many: Path) -> None:
        (many / "in/a.png").write_text("no picture")
        result = run("m.onnx", "in", "-o", "out", "--json")
        assert result.exit_code == 2
        assert [line["status"] for line in lines(result)] == ["failed"]
        assert result.stderr.startswith("Error: in/a.png is no picture")

    def test_names_that_are_no_text(self, folder: Path) -> None:
        odd = os.fsdecode(b"caf\xe9.png")
        os.rename("photo.png", odd)
        result = run("m.onnx", odd, "--json")
        assert (result.exit_code, lines(result)[0]["input"]) == (0, odd)
        assert run("m.onnx", odd).exit_code == 0


class TestStreams:
    def test_through_a_pipe(self, folder: Path, photo: Callable) -> None:
        data = (folder / "photo.png").read_bytes()
        result = run("m.onnx", "-", "-o", "-", stdin=data)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout_bytes.startswith(b"\x89PNG"), "the input's format"
        enlarged = photo().repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(read(result.stdout_bytes), enlarged)
        result = run("m.onnx", "photo.png", "-o", "-", "--format", "webp")
        assert result.stdout_bytes[8:12] == b"WEBP"

    def test_a_mask_that_exists_does_not_skip_the_stream(self, folder: Path) -> None:
        command = ("m.onnx", "photo.png", "-o", "-", "--mask", "mask.png", "--skip-existing")
        first, second = run(*command), run(*command)
        assert first.stdout_bytes == second.stdout_bytes
        assert first.stdout_bytes.startswith(b"\x89PNG")

    def test_from_a_pipe_into_a_file(self, folder: Path) -> None:
        data = (folder / "photo.png").read_bytes()
        result = run("m.onnx", "-", "-o", "x.tif", "--json", stdin=data)
        (line,) = lines(result)
        assert (line["input"], line["output"]) == ("-", "x.tif")
        assert read(folder / "x.tif").shape == (122, 166, 3)

    @pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
    def test_no_picture_in_the_pipe(self, folder: Path, data: bytes) -> None:
        result = run("m.onnx", "-", "-o", "-", stdin=data)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Error: standard input" in result.stderr

    def command(self, *options: str) -> list[str]:
        code = "from ppsr.runtime.cli import main; main()"
        return [sys.executable, "-c", code, "m.onnx", "photo.png", *options]

    def test_a_pipe_that_nobody_reads(self, folder: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        command, pipe = self.command("-o", "-"), subprocess.PIPE
        done = subprocess.run(command, stdout=writer, stderr=pipe, text=True)
        os.close(writer)
        message = "Error: cannot write standard output: Broken pipe\n"
        assert (done.returncode, done.stderr) == (1, message)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
    @pytest.mark.parametrize("options", [("-o", "-"), ("--json",)])
    def test_a_disc_that_is_full(self, folder: Path, options: tuple[str, ...]) -> None:
        with open("/dev/full", "wb") as full:
            command, pipe = self.command(*options), subprocess.PIPE
            done = subprocess.run(command, stdout=full, stderr=pipe, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert re.match("Error: cannot write .*standard output: No space left", done.stderr)


class TestBar:
    """On a terminal, and nowhere else."""

    def jobs(self, number: int) -> list[Any]:
        return [Job(Source(Path(f"{i}.png"), Path(f"{i}.png")), None, None) for i in range(number)]

    def test_moves_within_pictures(self) -> None:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=100, markup=False)
        jobs = self.jobs(3)
        with reports.Report(jobs, "people", console=console) as report:
            for share in (0.5, 1.0):
                report.advance(jobs[0], share)
            report.advance(jobs[1], 0.25)
            task = report._bar.tasks[0]
            assert (task.completed, task.total) == (1.25, 3)
        assert "1.png" in screen.getvalue()

    @pytest.mark.parametrize("terminal", [True, False])
    def test_is_quiet_in_a_pipe(self, terminal: bool) -> None:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal)
        jobs = self.jobs(2)
        with reports.Report(jobs, "people", bar=not terminal, console=console) as report:
            report.advance(jobs[0], 1)
        assert screen.getvalue() == ""


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, as from a shell that lets it hear Ctrl-C."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ppsr.runtime.cli import main; main()\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    options: dict[str, Any] = {"stdout": pipe, "stderr": pipe, "text": True, "cwd": folder}
    # A small pipe: some lines that are not read hold the command up, however fast the machine.
    with subprocess.Popen(command, pipesize=4096, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
class TestStopped:
    @pytest.fixture
    def work(self, folder: Path, photo: Callable, write_model: Callable) -> list[str]:
        """Some seconds of it: thirty pictures, and a model that is slow."""
        write_model(folder / "slow.onnx", steps=300)
        (folder / "in").mkdir()
        for index in range(30):
            save(folder / f"in/{index:02}.png", photo("coffee", 100 + index, 150))
        return ["slow.onnx", "in", "-o", "out", "--skip-existing", "--threads", "1", "--json"]

    @pytest.mark.parametrize("by", ["SIGKILL", "SIGINT"])
    def test_the_rest_is_done_later_and_nothing_twice(
        self, folder: Path, work: list[str], by: str
    ) -> None:
        with started(folder, *work) as process:
            assert process.stdout is not None
            told = [json.loads(process.stdout.readline())["status"] for _ in range(3)]
            process.send_signal(getattr(signal, by))
            _, errors = process.communicate(timeout=60)
        assert told == ["done"] * 3
        if by == "SIGINT":
            assert (process.returncode, errors) == (130, "Error: interrupted\n")
        first = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("[!.]*")}
        assert 3 <= len(first) < 30, "it was stopped in the middle"
        if by == "SIGINT":
            assert not [name for name in names(folder / "out") if name.startswith(".")]
        for name in first:
            assert read(folder / "out" / name).shape[1:] == (300, 3)
        result = run(*work)
        assert result.exit_code == 0
        skipped = {Path(x["output"]).name for x in lines(result) if x["status"] == "skipped"}
        assert skipped == set(first)
        second = {path.name: path.stat().st_mtime_ns for path in (folder / "out").iterdir()}
        assert {name: second[name] for name in first} == first
        assert sorted(second) == [f"{index:02}_x2.png" for index in range(30)], "no leftover"
        for index in range(30):
            assert read(folder / f"out/{index:02}_x2.png").shape == (2 * (100 + index), 300, 3)


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 2**32), ("512m", 2**29), ("1.5GiB", 3 * 2**29), ("64KB", 2**16)]
)
def test_sizes_of_memory(text: str, size: int) -> None:
    assert memory_size(text) == size


def test_help_says_what_is_replaced() -> None:
    output = " ".join(run("--help").output.split())
    assert "An output that exists already is replaced; an IMAGE never is." in output


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
        "print({'torch', 'onnx', 'onnxruntime', 'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
