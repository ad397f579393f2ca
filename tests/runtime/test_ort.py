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
from onnx import parser

from ppsr.models.errors import ArtefactError, BackendUnavailable, PpsrError, UsageError
from ppsr.runtime import Upscaler

ort = pytest.importorskip("ppsr.runtime.ort")


@pytest.mark.parametrize("model", ["pp-atd-light", "atd-light"])
@pytest.mark.parametrize("form", ["self-contained", "routed"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_runs_what_the_file_says(
    tmp_path: Path,
    photo: Callable,
    write_model: Callable,
    identity: Callable,
    form: str,
    model: str,
    scale: int,
) -> None:
    options = {"form": form, "model": model, "scale": scale}
    path = write_model(tmp_path / "a.onnx", **options)
    with Upscaler.open(str(path), threads=1) as up:
        assert up.artefact == identity(**options)
        assert up.device == "CPU"
        out = up(photo())
    np.testing.assert_array_equal(out, photo().repeat(scale, 0).repeat(scale, 1))


def test_no_active_token_at_all_is_fine(tmp_path: Path, write_model: Callable) -> None:
    flat = np.full((40, 40, 3), 200, np.uint8)
    with Upscaler.open(write_model(tmp_path / "a.onnx", form="routed")) as up:
        result = up.upscale(flat)
    assert result.pure == 1
    assert (result.pixels == 200).all()


def test_memory_goes_back_where_the_next_run_cannot_use_it(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another size, or a large one; results of earlier runs stay whole."""
    given_back = []

    class Options(ort.ort.RunOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            given_back.append(False)

        def add_run_config_entry(self, key: str, value: str) -> None:
            super().add_run_config_entry(key, value)
            given_back[-1] = (key, value) == ("memory.enable_memory_arena_shrinkage", "cpu:0")

    monkeypatch.setattr(ort.ort, "RunOptions", Options)
    pictures = [photo("astronaut", size, 3 * size) for size in (16, 61, 61, 61, 8, 8, 120, 120)]
    with Upscaler.open(write_model(tmp_path / "a.onnx", form="routed"), "cpu", 1) as up:
        outputs = [up(rgb) for rgb in pictures]
    for rgb, output in zip(pictures, outputs, strict=True):
        np.testing.assert_array_equal(output, rgb.repeat(2, 0).repeat(2, 1))
    assert given_back == [False, True, False, False, True, False, True, True]


@pytest.mark.parametrize("optimise", [True, False])
def test_optimisation_can_be_switched_off(
    tmp_path: Path, photo: Callable, write_model: Callable, optimise: bool
) -> None:
    backend = ort.OrtBackend(write_model(tmp_path / "a.onnx"), "cpu", optimise=optimise)
    with Upscaler(backend) as up:
        assert up(photo()).shape == (122, 166, 3)


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "is no ONNX file that onnxruntime can load"),
        (lambda data: b"no model at all", "is no ONNX file that onnxruntime can load"),
        (lambda data: bytes(1000), "is no ONNX file that onnxruntime can load"),
        (lambda data: b"", "is empty"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    tmp_path: Path,
    write_model: Callable,
    change: Callable,
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_model(tmp_path / "a.onnx")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtefactError, match=message) as caught:
        Upscaler.open(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_this_onnxruntime_lacks_is_named(tmp_path: Path) -> None:
    """Here one that has no kernel for these numbers; Attention where onnxruntime is old."""
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (double[2] x) => (double[2] y) { y = Asinh (x) }"""
    )
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        ArtefactError, match=r"newer onnxruntime than \d.*Asinh.*update it, or give"
    ):
        Upscaler.open(tmp_path / "a.onnx")


def test_models_of_others_are_refused(tmp_path: Path, write_model: Callable) -> None:
    path = write_model(tmp_path / "a.onnx", metadata=None)
    with pytest.raises(ArtefactError, match=r"a\.onnx was not made by ppsr-export"):
        Upscaler.open(path)
    write_model(path, metadata={"scale": "2", "author": "ultralytics"})
    with pytest.raises(ArtefactError, match="was not made by ppsr-export"):
        Upscaler.open(path)


def test_a_file_that_lies_about_its_form_is_refused(
    tmp_path: Path, write_model: Callable, identity: Callable
) -> None:
    metadata = identity(form="routed").to_metadata()
    path = write_model(tmp_path / "a.onnx", metadata=metadata)
    with pytest.raises(ArtefactError, match="expected the tensors active, input, output, got inp"):
        Upscaler.open(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(ArtefactError, match=r"cannot read .*a\.onnx: No such file"):
        Upscaler.open(tmp_path / "a.onnx")
    with pytest.raises(ArtefactError, match="is a folder; give a model file"):
        Upscaler.open(tmp_path / "b.onnx")
    with pytest.raises(ArtefactError, match=r"cannot read 'a\\x00\.onnx': embedded null"):
        Upscaler.open("a\0.onnx")


def test_options_are_checked(tmp_path: Path, write_model: Callable) -> None:
    path = write_model(tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="openvino, openvino-bf16, got 'tpu'"):
        Upscaler.open(path, "tpu")  # type: ignore[arg-type]
    for threads in (0, 1.5, True, "1", 10**12):
        with pytest.raises(UsageError, match=f"1 to 1024 threads, got {threads!r}"):
            Upscaler.open(path, threads=threads)  # type: ignore[arg-type]


def test_a_closed_model_says_so(tmp_path: Path, photo: Callable, write_model: Callable) -> None:
    with Upscaler.open(write_model(tmp_path / "a.onnx")) as up:
        up.close()
    with pytest.raises(PpsrError, match="this model is closed"):
        up(photo())


def test_cuda_without_a_provider_is_refused(
    tmp_path: Path, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "a.onnx")
    monkeypatch.setattr(ort.ort, "get_available_providers", lambda: [ort.CPU])
    with pytest.raises(BackendUnavailable, match="this onnxruntime has no CUDA; install"):
        Upscaler.open(path, "cuda")
    with Upscaler.open(path, "auto") as up:
        assert up.device == "CPU"


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_silent_fall_back_to_the_cpu_is_noticed(
    tmp_path: Path, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "a.onnx")
    monkeypatch.setattr(ort.ort, "get_available_providers", lambda: [ort.CUDA, ort.CPU])
    monkeypatch.setattr(ort.ort, "preload_dlls", lambda: print("noise"), raising=False)
    real = ort.ort.InferenceSession
    monkeypatch.setattr(
        ort.ort, "InferenceSession", lambda *a, providers, **k: real(*a, providers=[ort.CPU], **k)
    )
    with pytest.raises(BackendUnavailable, match="its CUDA provider did not start"):
        Upscaler.open(path, "cuda")
    with Upscaler.open(path, "auto") as up:
        assert up.device == "CPU"


def test_a_provider_that_raises_is_a_fall_back_too(
    tmp_path: Path, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "a.onnx")
    monkeypatch.setattr(ort.ort, "get_available_providers", lambda: [ort.CUDA, ort.CPU])
    monkeypatch.setattr(ort.ort, "preload_dlls", lambda: None, raising=False)
    real = ort.ort.InferenceSession

    def session(*positional: object, providers: list[object], **named: object) -> object:
        if providers != [ort.CPU]:
            raise RuntimeError("CUDA failure 35")
        return real(*positional, providers=providers, **named)

    monkeypatch.setattr(ort.ort, "InferenceSession", session)
    with pytest.raises(BackendUnavailable, match="its CUDA provider did not start"):
        Upscaler.open(path, "cuda")
    with Upscaler.open(path) as up:
        assert up.device == "CPU"


def test_errors_of_a_run_are_one_line(
    tmp_path: Path, write_model: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_model(tmp_path / "a.onnx", fragile=True)
    with ort.OrtBackend(path) as backend:
        for shape in ((1, 2, 16, 16), (1, 3, 16, 32)):
            with pytest.raises(PpsrError, match="the model failed on CPU: ") as caught:
                backend.run({"input": np.zeros(shape, np.float32)})
            assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc\nat x"),
        RuntimeError("Failed to allocate memory for requested buffer of size 99"),
    ],
)
def test_lack_of_memory_is_named(error: Exception) -> None:
    assert ort.one_line(error) == "not enough memory; use smaller tiles, or a smaller picture"


def test_long_messages_are_shortened() -> None:
    message = "[ONNXRuntimeError] : 1 : FAIL : Node " + "x" * 500 + "\nsecond line"
    assert ort.one_line(RuntimeError(message)).startswith("Node x")
    assert len(ort.one_line(RuntimeError(message))) == 200
    assert ort.one_line(RuntimeError()) == "RuntimeError"


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_stops_a_running_model(tmp_path: Path, write_model: Callable) -> None:
    """Left alone the model would run until the test kills it after a minute."""
    model = write_model(tmp_path / "a.onnx", steps=10000)
    script = """
        import signal
        import sys
        import numpy as np
        from pathlib import Path
        from PIL import Image
        import ppsr.runtime.ort as ort
        from ppsr.runtime import memory
        from ppsr.runtime.cli import main
        memory.BYTES_PER_PIXEL = 1
        run = ort.ort.InferenceSession.run
        def tell(*arguments):
            print("started", flush=True)
            return run(*arguments)
        # A shell may have started the tests deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ort.ort.InferenceSession.run = tell
        Image.fromarray(np.full((1500, 1500, 3), 9, np.uint8)).save(sys.argv[2])
        main()
    """
    picture = tmp_path / "a.png"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), model, picture, "--threads", "1"],
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
