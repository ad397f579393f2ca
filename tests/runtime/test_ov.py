"""The backend on OpenVINO, on toy models; what the network does there is in tests/export."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ppsr.models.errors import ArtefactError, BackendUnavailable, PpsrError, UsageError
from ppsr.runtime import Upscaler
from ppsr.runtime.upscaler import open_backend

DEVICES = {"openvino": "CPU, OpenVINO", "openvino-bf16": "CPU, OpenVINO in BF16"}


@pytest.fixture(scope="module")
def ov() -> object:
    pytest.importorskip("openvino")
    return pytest.importorskip("ppsr.runtime.ov")


@pytest.mark.parametrize("model", ["pp-atd-light", "atd-light"])
@pytest.mark.parametrize("form", ["self-contained", "routed"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("device", DEVICES)
def test_runs_what_the_file_says(
    ov: object,
    tmp_path: Path,
    photo: Callable,
    write_model: Callable,
    identity: Callable,
    device: str,
    form: str,
    model: str,
    scale: int,
) -> None:
    options = {"form": form, "model": model, "scale": scale}
    path = write_model(tmp_path / "a.onnx", **options)
    with Upscaler.open(str(path), device, threads=1) as up:
        assert up.artefact == identity(**options)
        assert up.device == DEVICES[device]
        assert up.backend.wants_active == up.artefact.takes_active
        out = up(photo())
    np.testing.assert_array_equal(out, photo().repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("form", ["self-contained", "routed"])
def test_pictures_of_other_sizes_follow_each_other(
    ov: object, tmp_path: Path, photo: Callable, write_model: Callable, form: str
) -> None:
    """And of other numbers of active tokens, none among them; results are no views of a buffer."""
    with Upscaler.open(write_model(tmp_path / "a.onnx", form=form), "openvino", 1) as up:
        first = up.upscale(photo())
        kept = first.pixels.copy()
        shares = [first.pure]
        for size in ((16, 16), (1, 1), (90, 33), (61, 83), (200, 40)):
            rgb = photo("astronaut", *size)
            result = up.upscale(rgb)
            shares.append(result.pure)
            np.testing.assert_array_equal(result.pixels, rgb.repeat(2, 0).repeat(2, 1))
        flat = up.upscale(np.full((40, 40, 3), 200, np.uint8))
        noise = up.upscale(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    assert (flat.pure, noise.pure) == (1, 0)
    assert (flat.pixels == 200).all()
    np.testing.assert_array_equal(first.pixels, kept)
    assert len(set(shares)) > 2


def test_outputs_outlive_the_next_run_and_the_model(
    ov: object, tmp_path: Path, write_model: Callable
) -> None:
    backend = open_backend(write_model(tmp_path / "a.onnx"), "openvino", 1)
    feeds = [np.full((1, 3, 16, 16), value, np.float32) for value in (0.25, 0.5)]
    first, second = (backend.run({"input": feed})["output"] for feed in feeds)
    backend.close()
    assert (first == 0.25).all()
    assert (second == 0.5).all()
    assert (feeds[0] == 0.25).all()


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "is no ONNX file that OpenVINO can load"),
        (lambda data: b"no model at all", "is no ONNX file that OpenVINO can load"),
        (lambda data: bytes(1000), "is no ONNX file that OpenVINO can load"),
        (lambda data: b"", "is empty"),
    ],
    ids=["half", "text", "zeros", "empty"],
)
def test_damaged_files_are_refused_in_one_line(
    ov: object,
    tmp_path: Path,
    write_model: Callable,
    change: Callable,
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_model(tmp_path / "a.onnx")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtefactError, match=message) as caught:
        Upscaler.open(path, "openvino")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_models_of_others_are_refused(
    ov: object, tmp_path: Path, write_model: Callable, identity: Callable
) -> None:
    path = write_model(tmp_path / "a.onnx", metadata=None)
    for metadata in (None, {"scale": "2", "author": "ultralytics"}):
        write_model(path, metadata=metadata)
        with pytest.raises(ArtefactError, match=r"a\.onnx was not made by ppsr-export"):
            Upscaler.open(path, "openvino")
    write_model(path, metadata=identity(form="routing").to_metadata())
    with pytest.raises(ArtefactError, match="finds active tokens and makes no picture"):
        Upscaler.open(path, "openvino")


def test_an_operator_of_others_is_refused(
    ov: object, tmp_path: Path, write_model: Callable
) -> None:
    onnx = pytest.importorskip("onnx")
    path = write_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtefactError, match="is no ONNX file that OpenVINO can load") as caught:
        Upscaler.open(path, "openvino")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "claimed"), [("self-contained", "routed"), ("routed", "self-contained")]
)
def test_a_file_that_lies_about_its_form_is_refused(
    ov: object, tmp_path: Path, write_model: Callable, identity: Callable, form: str, claimed: str
) -> None:
    """An input that nobody feeds is an empty one to OpenVINO: the picture would be wrong."""
    metadata = identity(form=claimed).to_metadata()
    path = write_model(tmp_path / "a.onnx", form=form, metadata=metadata)
    with pytest.raises(ArtefactError, match=r"is not the model it says: expected the tensors"):
        Upscaler.open(path, "openvino")


def test_what_is_no_file_is_refused(ov: object, tmp_path: Path) -> None:
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(ArtefactError, match=r"cannot read .*a\.onnx: No such file"):
        Upscaler.open(tmp_path / "a.onnx", "openvino")
    with pytest.raises(ArtefactError, match="is a folder; give a model file"):
        Upscaler.open(tmp_path / "b.onnx", "openvino")
    with pytest.raises(ArtefactError, match=r"cannot read 'a\\x00\.onnx': embedded null"):
        Upscaler.open("a\0.onnx", "openvino")


@pytest.mark.parametrize("threads", [0, 1.5, True, "1", 10**12])
def test_threads_are_checked(
    ov: object, tmp_path: Path, write_model: Callable, threads: object
) -> None:
    path = write_model(tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=f"1 to 1024 threads, got {threads!r}"):
        Upscaler.open(path, "openvino", threads)  # type: ignore[arg-type]


@pytest.mark.parametrize(("threads", "wanted"), [(1, 1), (2, 2), (None, None)])
@pytest.mark.parametrize(("device", "kind"), [("openvino", "f32"), ("openvino-bf16", "bf16")])
def test_options_reach_openvino(
    ov: object,
    tmp_path: Path,
    write_model: Callable,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    kind: str,
    threads: int | None,
    wanted: int | None,
) -> None:
    seen = []
    real = ov.openvino.Core.compile_model  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "openvino.Core.compile_model",
        lambda core, model, name, settings: (
            seen.append((name, settings)),
            real(core, model, name, settings),
        )[1],
    )
    Upscaler.open(write_model(tmp_path / "a.onnx"), device, threads).close()
    ((name, settings),) = seen
    assert name == "CPU"
    assert settings["INFERENCE_PRECISION_HINT"] == kind
    assert settings.get("INFERENCE_NUM_THREADS") == wanted


def test_a_closed_model_says_so(
    ov: object, tmp_path: Path, photo: Callable, write_model: Callable
) -> None:
    with Upscaler.open(write_model(tmp_path / "a.onnx"), "openvino") as up:
        up.close()
    with pytest.raises(PpsrError, match="this model is closed"):
        up(photo())


def test_errors_of_a_run_are_one_line(
    ov: object, tmp_path: Path, write_model: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model still runs afterwards."""
    with open_backend(write_model(tmp_path / "a.onnx", fragile=True), "openvino", 1) as backend:
        for feed in (
            {"input": np.zeros((1, 3, 32, 32), np.float32)},
            {"input": np.zeros((1, 4, 16, 16), np.float32)},
            {"picture": np.zeros((1, 3, 16, 16), np.float32)},
        ):
            with pytest.raises(PpsrError, match="the model failed on CPU, OpenVINO: ") as caught:
                backend.run(feed)
            assert "\n" not in str(caught.value)
        assert backend.run({"input": np.zeros((1, 3, 16, 16), np.float32)})["output"].max() == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("Exception from a.cpp:1:\nstd::bad_alloc"),
        RuntimeError("could not allocate memory"),
    ],
)
def test_lack_of_memory_is_named(ov: object, error: Exception) -> None:
    assert (
        ov._one_line(error)  # type: ignore[attr-defined]
        == "not enough memory; use smaller tiles, or a smaller picture"
    )


def test_long_messages_are_shortened(ov: object) -> None:
    one_line = ov._one_line  # type: ignore[attr-defined]
    assert one_line(RuntimeError("Exception from a.cpp:1:\n\n Node broke \n\n")) == "Node broke"
    assert len(one_line(RuntimeError("x" * 500))) == 200
    assert one_line(RuntimeError()) == "RuntimeError"


def test_a_missing_openvino_is_named(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "ppsr.runtime.ov", raising=False)
    monkeypatch.delattr("ppsr.runtime.ov", raising=False)
    path = write_model(tmp_path / "a.onnx")
    with pytest.raises(BackendUnavailable, match=r"pip install 'ppsr\[openvino\]', or use") as why:
        open_backend(path, "openvino")
    assert why.value.exit_code == 4
    pytest.importorskip("onnxruntime")
    with Upscaler.open(path, "cpu") as up:
        assert up(photo()).shape == (122, 166, 3)


def test_without_openvino_the_command_says_what_to_install(
    tmp_path: Path, photo: Callable, write_model: Callable
) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(photo("coffee", 16, 16)).save(tmp_path / "a.png")
    write_model(tmp_path / "a.onnx")
    code = "import sys; sys.modules['openvino'] = None\nfrom ppsr.runtime.cli import main; main()"

    def run(device: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "a.onnx", "a.png", "--device", device, "-o", "b.png"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    done = run("openvino")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "Error: OpenVINO is not installed: pip install 'ppsr[openvino]', or use --device cpu\n"
    )
    assert run("cpu").returncode == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.plan", r"is a TensorRT engine; on the CPU run the \.onnx file"),
        ("a.trt", "is a TensorRT engine"),
        ("a.pth", "is a checkpoint, not a model file; export it first"),
        ("a.safetensors", "is a checkpoint"),
        ("a.xml", r"ends in \.onnx or \.plan"),
    ],
)
def test_other_files_are_refused(name: str, message: str, device: str) -> None:
    with pytest.raises(UsageError, match=message):
        Upscaler.open(name, device)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_stops_a_running_model(ov: object, tmp_path: Path, write_model: Callable) -> None:
    """The test kills what has not stopped after a minute."""
    model = write_model(tmp_path / "a.onnx", steps=500)
    script = """
        import signal
        import sys
        import numpy as np
        import openvino
        from PIL import Image
        from ppsr.runtime import memory
        from ppsr.runtime.cli import main
        memory.BYTES_PER_PIXEL = 1
        start = openvino.InferRequest.start_async
        def tell(*arguments, **named):
            start(*arguments, **named)
            print("started", flush=True)
        # A shell may have started the tests deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        openvino.InferRequest.start_async = tell
        Image.fromarray(np.full((1500, 1500, 3), 9, np.uint8)).save(sys.argv[2])
        main()
    """
    picture = tmp_path / "a.png"
    command = [sys.executable, "-c", textwrap.dedent(script), model, picture]
    with subprocess.Popen(
        [*command, "--threads", "1", "--device", "openvino"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        killer = threading.Timer(60, process.kill)
        killer.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        killer.cancel()
    assert (process.returncode, out, err) == (130, "", "Error: interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.png"]
