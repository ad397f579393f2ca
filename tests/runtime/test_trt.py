"""Plans on a GPU that is a recorded fake; and for real, what a machine without one answers."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsr.models.config import PurePass
from ppsr.models.errors import ArtefactError, BackendUnavailable, PpsrError, UsageError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, pure_pixels, purity_mask
from ppsr.runtime import Upscaler
from ppsr.runtime.sidecar import ShapeRange, routing_path, sidecar_path
from ppsr.runtime.upscaler import open_backend

KINDS = ("dense", "told", "routing")
TENSORRT = {"flavour": "tensorrt", "flavour_version": "11.4.0.106"}
DENSE = {"tensors": {"input": "FLOAT", "output": "FLOAT"}}


@pytest.fixture
def make(tmp_path: Path, gpu: Any, write_plan: Callable, write_router: Callable) -> Callable:
    """``make(kind, ...)``: a plan of one of the three kinds, with all that lies beside it."""

    def made(kind: str = "told", **options: Any) -> Path:
        model = "atd-light" if kind == "dense" else "pp-atd-light"
        path: Path = write_plan(tmp_path / "a.plan", **{"model": model, **options})
        if kind == "routing":
            write_router(path)
        return path

    return made


def enlarged(rgb: Any, scale: int = 2) -> Any:
    return rgb.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("described", [{}, TENSORRT], ids=["rtx", "tensorrt"])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_several_sizes(
    gpu: Any, make: Callable, photo: Callable, kind: str, described: dict[str, str]
) -> None:
    sizes = [(61, 83), (150, 201), (16, 16), (61, 83), (61, 83), (61, 83), (150, 201)]
    with Upscaler.open(make(kind, described=described)) as up:
        assert up.device == "CUDA"
        for size in sizes:
            rgb = photo("coffee", *size)
            result = up.upscale(rgb)
            np.testing.assert_array_equal(result.pixels, enlarged(rgb))
            if kind == "dense":
                assert (result.pure, result.routing_milliseconds) == (None, 0)
                continue
            assert result.pure == purity_mask(rgb).mean()
            expected = active_tokens(pure_pixels(pad_to_grid(rgb)))
            np.testing.assert_array_equal(gpu.seen[-1], expected)
            if kind == "routing":
                assert result.routing_milliseconds == 0.25
            else:
                assert 0 < result.routing_milliseconds <= result.milliseconds
    assert not gpu.live


def test_what_blocks_attend_to_comes_back(gpu: Any, make: Callable, photo: Callable) -> None:
    with Upscaler.open(make(model="adaformer")) as up:
        for size in ((61, 83), (150, 201)):
            rgb = photo("coffee", *size)
            result = up.upscale(rgb)
            np.testing.assert_array_equal(result.pixels, enlarged(rgb))
            expected = 1 + rgb[..., 0] // 64
            assert result.kept == pytest.approx([(expected > block).mean() for block in range(4)])
    assert not gpu.live
    with pytest.raises(ArtefactError, match="not the engine it says"):
        Upscaler.open(make(model="adaformer", plan=DENSE))


@pytest.mark.parametrize("kind", ["told", "routing"])
def test_no_active_token_at_all_is_fine(gpu: Any, make: Callable, kind: str) -> None:
    flat = np.full((40, 40, 3), 200, np.uint8)
    with Upscaler.open(make(kind)) as up:
        result = up.upscale(flat)
    assert result.pure == 1
    assert (result.pixels == 200).all()
    assert gpu.seen[0].shape == (0,)


@pytest.mark.parametrize("scale", [3, 4])
def test_other_scales(gpu: Any, make: Callable, photo: Callable, scale: int) -> None:
    with Upscaler.open(make(scale=scale)) as up:
        np.testing.assert_array_equal(up(photo()), enlarged(photo(), scale))


OPENING = [
    *("cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaStreamCreateWithFlags"),
    *("cudaEventCreate", "cudaEventCreate"),
]
LOADING = ["Runtime", "deserialize_cuda_engine", "create_execution_context"]
CLOSING = ["cudaStreamSynchronize", "~context", "cudaFree"]


def test_the_calls_of_one_picture(gpu: Any, make: Callable, photo: Callable) -> None:
    with Upscaler.open(make("told")) as up:
        assert gpu.names() == [*OPENING, *LOADING]
        gpu.calls.clear()
        up(photo("coffee", 61, 83))
        assert gpu.names() == [
            "set_optimization_profile_async",
            *("set_input_shape", "set_input_shape"),
            *("update_device_memory_size_for_shapes", "cudaMalloc", "set_device_memory"),
            *("cudaMalloc", "cudaMallocHost") * 3,
            *("cudaMemcpyAsync", "cudaMemcpyAsync"),
            *("set_tensor_address",) * 3,
            "execute_async_v3",
            *("cudaMemcpyAsync", "cudaStreamSynchronize"),
        ]
        tokens = len(gpu.seen[0])
        shapes = [call[1:] for call in gpu.calls if call[0] == "set_input_shape"]
        assert shapes == [("input", (1, 3, 64, 96)), ("active", (tokens,))]
        copied = [call[3] for call in gpu.calls if call[0] == "cudaMemcpyAsync"]
        assert copied == [64 * 96 * 12, tokens * 8, 128 * 192 * 12]
        gpu.calls.clear()
    names = gpu.names()
    assert names[:3] == CLOSING
    assert names.index("~context") < names.index("~engine") < names.index("~runtime")
    assert names[-1] == "cudaStreamDestroy"


def test_memory_is_kept_for_the_next_picture(gpu: Any, make: Callable, photo: Callable) -> None:
    with Upscaler.open(make("routing")) as up:
        up(photo("coffee", 150, 201))
        gpu.calls.clear()
        for size in ((61, 83), (150, 201), (80, 112)):
            up(photo("astronaut", *size))
        assert not {name for name in gpu.names() if "Malloc" in name or "Free" in name}


def test_the_number_of_active_tokens_alone_is_waited_for(
    gpu: Any, make: Callable, photo: Callable
) -> None:
    with Upscaler.open(make("routing")) as up:
        up(photo())
        gpu.calls.clear()
        up(photo())
    names = [name for name in gpu.names() if name.startswith(("cudaMemcpy", "cudaStreamS"))]
    assert names[:5] == [
        *("cudaMemcpyAsync", "cudaMemcpyAsync", "cudaStreamSynchronize"),
        *("cudaMemcpyAsync", "cudaMemcpyAsync"),
    ]
    copied = [call[3] for call in gpu.calls if call[0] == "cudaMemcpyAsync"]
    assert copied[1] == 4


def test_the_profile_tuned_nearest_is_taken(gpu: Any, make: Callable, photo: Callable) -> None:
    with Upscaler.open(make("dense")) as up:
        for size in ((64, 64), (16, 16), (128, 128), (200, 300), (64, 64)):
            up(photo("coffee", *size))
    chosen = [call[1] for call in gpu.calls if call[0] == "set_optimization_profile_async"]
    assert chosen == [0, 1, 0]


def test_ties_between_profiles_go_to_the_first(gpu: Any) -> None:
    from ppsr.runtime.engine import choose_profile

    small, same = (ShapeRange((16, 16), (64, 64), (high, high)) for high in (128, 256))
    assert choose_profile([small, same], (64, 64), None) == 0
    assert choose_profile([small, same], (144, 64), None) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(300, 400), (16, 300)])
def test_a_picture_outside_every_profile_is_cut(
    gpu: Any, make: Callable, photo: Callable, kind: str, size: tuple[int, int]
) -> None:
    rgb = photo("coffee", *size)
    with Upscaler.open(make(kind)) as up:
        result = up.upscale(rgb)
        assert result.tiles > 1
        np.testing.assert_array_equal(result.pixels, enlarged(rgb))
        if kind != "dense":
            assert result.pure == purity_mask(rgb).mean()
            assert sum(map(len, gpu.seen)) > 0
            assert 0 < result.routing_milliseconds <= result.milliseconds
        np.testing.assert_array_equal(up(photo()), enlarged(photo()))
    assert not gpu.live


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_itself_refuses_a_size_outside_every_profile(
    gpu: Any, make: Callable, kind: str
) -> None:
    with open_backend(make(kind)) as backend:
        before = len(gpu.live)
        feed = {"input": np.zeros((1, 3, 304, 400), np.float32)}
        if kind == "told":
            feed["active"] = np.zeros(0, np.int64)
        with pytest.raises(UsageError) as caught:
            backend.run(feed)
        message = str(caught.value)
        assert "takes pictures from 16 x 16 to 128 x 128" in message
        assert "or 64 x 64 to 256 x 512" in message
        assert "got 304 x 400" in message
        assert len(gpu.live) == before
    assert not gpu.live


def graphs(gpu: Any) -> list[str]:
    return [name for name in gpu.names() if name in ("cudaGraphLaunch", "execute_async_v3")]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Plain; recorded and launched; launched.
        ("dense", ["execute_async_v3", "execute_async_v3", *["cudaGraphLaunch"] * 2]),
        ("told", ["execute_async_v3"] * 3),
    ],
)
def test_a_graph_is_recorded_where_it_pays(
    gpu: Any, make: Callable, photo: Callable, kind: str, expected: list[str]
) -> None:
    with Upscaler.open(make(kind, described=TENSORRT)) as up:
        for _ in range(3):
            np.testing.assert_array_equal(up(photo()), enlarged(photo()))
        assert graphs(gpu) == expected
        for size in ((16, 16), (61, 83)):
            np.testing.assert_array_equal(
                up(photo("coffee", *size)), enlarged(photo("coffee", *size))
            )
        assert graphs(gpu)[len(expected) :] == ["execute_async_v3"] * 2
    assert not gpu.live


def test_an_engine_that_cannot_be_recorded_runs(gpu: Any, make: Callable, photo: Callable) -> None:
    gpu.records = False
    with Upscaler.open(make("dense", described=TENSORRT)) as up:
        for _ in range(4):
            np.testing.assert_array_equal(up(photo()), enlarged(photo()))
    assert gpu.names().count("cudaStreamBeginCapture") == 1
    assert not gpu.live


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_after_one_that_was_too_large(
    gpu: Any, make: Callable, photo: Callable, kind: str
) -> None:
    """What was recorded before must not run in memory that was given back meanwhile."""
    memory = type(gpu.runtime().cudaError_t.cudaSuccess)(2)
    with Upscaler.open(make(kind, described=TENSORRT)) as up:
        for _ in range(3):
            up(photo())
        gpu.before = lambda index, name: memory if name == "cudaMalloc" else None
        for _ in range(2):
            with pytest.raises(PpsrError, match=r"not enough GPU memory .*; use smaller tiles"):
                up(photo("coffee", 150, 201))
        gpu.before = lambda index, name: None
        np.testing.assert_array_equal(up(photo()), enlarged(photo()))
        np.testing.assert_array_equal(up(photo()), enlarged(photo()))


def test_rtx_records_on_its_own(gpu: Any, make: Callable, photo: Callable) -> None:
    with Upscaler.open(make("routing")) as up:
        for _ in range(3):
            up(photo())
    made = [call[1] for call in gpu.calls if call[0] == "create_execution_context"]
    assert made[0] == "user managed"
    assert (made[1].strategy, made[1].cuda_graph_strategy) == ("user managed", "whole graph")
    assert "cudaStreamBeginCapture" not in gpu.names()


@pytest.mark.parametrize("described", [{}, TENSORRT], ids=["rtx", "tensorrt"])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_fails_is_one_line_and_all_is_freed(
    gpu: Any, make: Callable, photo: Callable, kind: str, described: dict[str, str]
) -> None:
    """Every call in turn fails; a graph alone may fail unnoticed, as it is not needed."""
    path = make(kind, described=described)
    pictures = [photo("coffee", *size) for size in ((16, 16), (29, 35), (29, 35), (29, 35))]

    def scenario() -> None:
        with Upscaler.open(path) as up:
            for rgb in pictures:
                np.testing.assert_array_equal(up(rgb), enlarged(rgb))

    scenario()
    calls = gpu.names()
    illegal = type(gpu.runtime().cudaError_t.cudaSuccess)(700)
    unneeded = range(-1, -1)
    if "cudaStreamBeginCapture" in calls:
        unneeded = range(calls.index("cudaStreamBeginCapture"), calls.index("cudaGraphLaunch"))
    steps = [name for name in calls if not name.startswith("~")]
    assert len(steps) > 50
    for fail, name in enumerate(calls):
        if name.startswith("~"):
            continue
        gpu.calls.clear()
        gpu.queue.clear()
        gpu.recording = None
        gpu.before = lambda index, name, fail=fail: illegal if index == fail else None
        if fail in unneeded:
            scenario()
        else:
            with pytest.raises(PpsrError) as caught:
                scenario()
            assert "\n" not in str(caught.value), name
            if name.startswith("cuda"):
                assert "cudaErrorIllegalAddress" in str(caught.value), name
            else:
                assert "TensorRT" in str(caught.value) or "does not" in str(caught.value), name
            del caught
        assert not gpu.live, name


def test_ctrl_c_frees_everything(gpu: Any, make: Callable, photo: Callable) -> None:
    path, rgb = make("routing", described=TENSORRT), photo("coffee", 29, 35)
    interrupted = 0

    def interrupt(index: int, name: str) -> None:
        if index == stop:
            raise KeyboardInterrupt

    for stop in range(60):
        gpu.calls.clear()
        gpu.before = interrupt
        try:
            with Upscaler.open(path) as up:
                up(rgb)
                gpu.before = lambda index, name: None
        except KeyboardInterrupt:
            interrupted += 1
        assert not gpu.live, stop
    assert 30 < interrupted < 60


def test_a_picture_after_ctrl_c(gpu: Any, make: Callable, photo: Callable) -> None:
    def interrupt(index: int, name: str) -> None:
        if name == "execute_async_v3":
            raise KeyboardInterrupt

    with Upscaler.open(make()) as up:
        gpu.before = interrupt
        with pytest.raises(KeyboardInterrupt):
            up(photo())
        assert not gpu.queue
        gpu.before = lambda index, name: None
        np.testing.assert_array_equal(up(photo()), enlarged(photo()))
    assert not gpu.live


def test_the_first_failure_is_the_one_that_is_told(
    gpu: Any, make: Callable, photo: Callable
) -> None:
    """After an illegal access every call fails, freeing too."""
    illegal = type(gpu.runtime().cudaError_t.cudaSuccess)(700)

    def twice() -> None:
        with Upscaler.open(make()) as up:
            up(photo())
            gpu.calls.clear()
            gpu.before = lambda index, name: illegal if "cudaMemcpyAsync" in gpu.names() else None
            up(photo())

    with pytest.raises(PpsrError, match="cudaMemcpyAsync returned"):
        twice()
    assert not gpu.live


def test_a_closed_model_says_so(gpu: Any, make: Callable, photo: Callable) -> None:
    with Upscaler.open(make()) as up:
        up.close()
        up.close()
    with pytest.raises(PpsrError, match="this model is closed"):
        up(photo())
    assert not gpu.live


def test_memory_of_the_output_is_the_caller_s(gpu: Any, make: Callable) -> None:
    from ppsr.runtime.trt import TrtBackend

    image = np.full((1, 3, 16, 16), 0.5, np.float32)
    with TrtBackend(make("dense")) as backend:
        first = backend.run({"input": image})["output"]
        backend.run({"input": image * 0})
    assert (first == 0.5).all()


REFUSED: dict[str, tuple[dict[str, Any], type[PpsrError], str]] = {
    "version": (
        {"described": {"flavour_version": "1.6.0"}},
        BackendUnavailable,
        r"built by tensorrt-rtx 1\.6\.0, but 1\.7\.1\.116 is installed; export it again, or pip",
    ),
    "GPU": (
        {"described": {"gpu_name": "NVIDIA L4", "compute_capability": "8.9"}},
        BackendUnavailable,
        "built for NVIDIA L4, but this GPU is NVIDIA H200; export it again on this machine",
    ),
    "compute capability": (
        {"described": {"gpu_name": "NVIDIA H200", "compute_capability": "8.9"}},
        BackendUnavailable,
        "built for compute capability 8.9, but this GPU is compute capability 9.0; export",
    ),
    "hash": (
        {"described": {"sha256": "ab" * 32}},
        ArtefactError,
        r"a\.plan is not the file that a\.plan\.json describes: expected SHA-256 abababababab, got",
    ),
    "no sidecar": (
        {"described": None},
        ArtefactError,
        r"no description beside it \(a\.plan\.json\), and a plan is code: .* with ppsr-run --trust",
    ),
    "tensors": (
        {"plan": {"tensors": {"input": "FLOAT", "y": "FLOAT", "active": "INT64"}}},
        ArtefactError,
        "expected the tensors active INT64, input FLOAT, output FLOAT, got active INT64, input FL",
    ),
    "types": (
        {"plan": {"tensors": {"input": "HALF", "output": "FLOAT", "active": "INT64"}}},
        ArtefactError,
        "got active INT64, input HALF, output FLOAT; export it again",
    ),
    "mask": ({"plan": DENSE}, ArtefactError, "is not the engine it says: expected the tensors act"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_plans_that_do_not_fit_are_refused(gpu: Any, make: Callable, name: str) -> None:
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        Upscaler.open(make(**options))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert not gpu.live


def test_nothing_is_loaded_before_it_is_checked(gpu: Any, make: Callable) -> None:
    for name in ("version", "GPU", "compute capability", "hash", "no sidecar"):
        with pytest.raises(PpsrError):
            Upscaler.open(make(**REFUSED[name][0]))
    assert "deserialize_cuda_engine" not in gpu.names()


def test_a_plan_that_does_not_load_says_what_tensorrt_says(gpu: Any, make: Callable) -> None:
    illegal = type(gpu.runtime().cudaError_t.cudaSuccess)(700)
    gpu.before = lambda index, name: illegal if name == "deserialize_cuda_engine" else None
    with pytest.raises(
        BackendUnavailable,
        match=r"does not load on NVIDIA H200 with tensorrt-rtx 1\.7\.1\.116 \(Serialization asser",
    ):
        Upscaler.open(make())


def test_the_description_of_an_onnx_file_is_no_plan_s(gpu: Any, make: Callable) -> None:
    path = make()
    content = json.loads(sidecar_path(path).read_text())
    del content["plan_sha256"]
    sidecar_path(path).write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match="does not describe an engine; export the engine again"):
        Upscaler.open(path)


@pytest.mark.parametrize(("described", "extra"), [({}, "rtx"), (TENSORRT, "tensorrt")])
def test_a_missing_flavour_is_named(
    gpu: Any,
    make: Callable,
    monkeypatch: pytest.MonkeyPatch,
    described: dict[str, str],
    extra: str,
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=rf"cannot be imported .*'ppsr\[{extra}\]'"):
        Upscaler.open(make(described=described))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trusted_plan_shows_what_it_is(
    gpu: Any, make: Callable, photo: Callable, kind: str
) -> None:
    path = make(kind, described=None, scale=3)
    routing_path(path).with_name("a_routing.plan.json").unlink(missing_ok=True)
    with Upscaler.open(path, trust=True) as up:
        assert (up.scale, up.artefact.form, up.artefact.precision) == (3, "routed", "unknown")
        assert up.artefact.pure_pass == (None if kind == "dense" else PurePass())
        np.testing.assert_array_equal(up(photo()), enlarged(photo(), 3))
    assert not gpu.live


def test_trust_does_not_make_a_plan_of_what_is_none(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.plan"
    path.write_bytes(b"no plan at all")
    with pytest.raises(ArtefactError, match=r"no plan that can be loaded here \(tensorrt: Seri"):
        Upscaler.open(path, trust=True)
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("ppsr.runtime.plan.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="needs TensorRT, which is not installed: pip in"):
        Upscaler.open(path, trust=True)


def test_trust_does_not_pass_over_a_sidecar(gpu: Any, make: Callable) -> None:
    with pytest.raises(ArtefactError, match="is not the file that"):
        Upscaler.open(make(described={"sha256": "ab" * 32}), trust=True)


def test_what_is_no_file_is_refused(gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "b.plan").mkdir()
    (tmp_path / "c.plan").touch()
    for name, message in (("a", "cannot read"), ("b", "is a folder"), ("c", "is empty")):
        with pytest.raises(ArtefactError, match=message):
            Upscaler.open(tmp_path / f"{name}.plan")


def test_a_router_of_another_model_is_refused(
    gpu: Any, make: Callable, write_router: Callable
) -> None:
    path = make("routing")
    beside = sidecar_path(routing_path(path))
    content = json.loads(beside.read_text())
    pure_pass = {**json.loads(content["pure_pass"]), "shift": 0}
    beside.write_text(json.dumps({**content, "pure_pass": json.dumps(pure_pass)}))
    with pytest.raises(ArtefactError, match="routes with other settings than the engine it lies"):
        Upscaler.open(path)
    write_router(path, kind="network")
    beside.unlink()
    with pytest.raises(ArtefactError, match=r"a_routing\.plan has no description beside it"):
        Upscaler.open(path)
    write_router(path, tensors={"input": "FLOAT", "active": "INT64"})
    with pytest.raises(ArtefactError, match="tensors active INT64, count INT32, input FLOAT, got"):
        Upscaler.open(path)
    assert not gpu.live


@pytest.mark.parametrize("count", [-1, 64 * 96 + 1])
def test_a_router_that_counts_wrongly_is_noticed(
    gpu: Any, make: Callable, write_router: Callable, photo: Callable, count: int
) -> None:
    path = make("routing")
    write_router(path, count=count)
    with Upscaler.open(path) as up, pytest.raises(PpsrError, match=f"found {count} active tokens"):
        up(photo())
    assert not gpu.live


def test_no_driver_is_told_before_tensorrt_is_touched(
    gpu: Any, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.devices = 0  # Then CUDA returns cudaErrorNoDevice.
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU, but the driver finds no GP"):
        Upscaler.open(make())
    assert gpu.names() == ["cudaGetDeviceCount"]


SCRIPT = """
    import sys, time, types
    start = time.perf_counter()
    from ppsr.runtime.cli import main
    class Deadly(types.ModuleType):
        def __getattr__(self, name):
            import os
            os.abort()
    if sys.argv.pop(1) == "tensorrt":
        sys.modules["tensorrt"] = sys.modules["tensorrt_rtx"] = Deadly("tensorrt")
    try:
        main()
    finally:
        print(time.perf_counter() - start)
        print([name for name in ("torch", "onnxruntime") if name in sys.modules])
"""


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_it_is_one_line_at_once(
    tmp_path: Path, write_plan: Callable, photo: Callable, flavour: str
) -> None:
    """The real driver call; a TensorRT that is touched nevertheless kills the process."""
    cuda = pytest.importorskip("ppsr.runtime.cuda", exc_type=ImportError)
    if cuda.probe() is None:
        pytest.skip("this machine has a GPU")
    from PIL import Image

    write_plan(tmp_path / "x.plan", described={"flavour": flavour})
    Image.fromarray(photo()).save(tmp_path / "img.png")
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), flavour, "x.plan", "img.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert done.stderr.startswith("Error: x.plan needs an NVIDIA GPU, but ")
    assert done.stderr.count("\n") == 1
    seconds, imported = done.stdout.splitlines()
    assert float(seconds) < 2
    assert imported == "[]"
