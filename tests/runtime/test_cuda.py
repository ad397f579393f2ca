"""CUDA calls against a recorded fake; on a machine without a GPU, the real answer of the driver."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from ppsr.models.errors import BackendUnavailable, PpsrError

ILLEGAL, MEMORY, DRIVER = 700, 2, 35


@pytest.fixture
def cuda(gpu: Any) -> Any:
    return importlib.import_module("ppsr.runtime.cuda")


def failing(gpu: Any, *calls: str, status: int = ILLEGAL) -> None:
    code = type(gpu.runtime().cudaError_t.cudaSuccess)(status)
    gpu.before = lambda index, name: code if name in calls else None


def test_a_gpu_is_found(gpu: Any, cuda: Any) -> None:
    assert cuda.probe() is None
    assert cuda.first_gpu() == cuda.Gpu("NVIDIA H200", "9.0")


@pytest.mark.parametrize(
    ("driver", "devices", "status", "reason"),
    [
        (0, 1, DRIVER, r"no NVIDIA driver is installed \(cudaErrorInsufficientDriver\)"),
        (12000, 1, DRIVER, r"too old, for CUDA 12 \(cudaErrorInsufficientDriver\)"),
        (13000, 1, 999, r"driver does not start \(cudaErrorUnknown\)"),
        (13000, 0, 100, "the driver finds no GPU"),
    ],
)
def test_what_is_missing_is_named(
    gpu: Any, cuda: Any, driver: int, devices: int, status: int | None, reason: str
) -> None:
    gpu.driver, gpu.devices = driver, devices
    if status:
        failing(gpu, "cudaGetDeviceCount", status=status)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(cuda.probe())


def test_a_library_that_is_missing_is_named(
    gpu: Any, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1\nmore")

    monkeypatch.setattr(cuda.cudart, "cudaGetDeviceCount", fail)
    assert cuda.probe() == "CUDA cannot be loaded (Failed to dlopen libcuda.so.1)"


def test_a_silent_gpu_is_unavailable(gpu: Any, cuda: Any) -> None:
    failing(gpu, "cudaGetDeviceProperties")
    with pytest.raises(BackendUnavailable, match=r"does not answer: .*cudaErrorIllegalAddress"):
        cuda.first_gpu()


def test_memory_grows_and_is_kept(gpu: Any, cuda: Any) -> None:
    memory = cuda.Memory()
    memory.reserve(0)
    assert memory.size == 256
    first = memory.address
    assert first
    memory.reserve(256)
    assert memory.address == first
    memory.reserve(257)
    assert memory.size == 512
    memory.reserve(3)
    memory.close()
    memory.close()
    assert gpu.names() == ["cudaMalloc", "cudaFree", "cudaMalloc", "cudaFree"]
    assert not gpu.live


@pytest.mark.parametrize(("call", "where"), [("cudaMalloc", "GPU"), ("cudaMallocHost", "page-loc")])
def test_too_little_memory_is_named(gpu: Any, cuda: Any, call: str, where: str) -> None:
    failing(gpu, call, status=MEMORY)
    with cuda.Stream() as stream, cuda.Mirror(stream) as mirror:
        with pytest.raises(PpsrError, match=f"not enough {where}.*MemoryAllocation.*smaller pict"):
            mirror.reserve(24)
        gpu.before = lambda index, name: None
        mirror.reserve(24)
        mirror.upload(np.zeros(3))
        stream.synchronize()
    assert not gpu.live


@pytest.mark.parametrize("shape", [(5,), (2, 3), (0,)])
def test_what_goes_up_comes_down(gpu: Any, cuda: Any, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    with cuda.Stream() as stream, cuda.Mirror(stream) as up:
        up.reserve(array.nbytes)
        assert up.address
        up.upload(array.T)
        stream.synchronize()
        back = up.download(array.T.shape, np.int64)
        stream.synchronize()
        np.testing.assert_array_equal(back, array.T)
    assert not gpu.live


def test_a_copy_is_done_when_the_stream_is(gpu: Any, cuda: Any) -> None:
    with cuda.Stream() as stream, cuda.Mirror(stream) as mirror:
        array = np.arange(4)
        mirror.reserve(array.nbytes)
        mirror.upload(array)
        array[:] = 9  # It is free at once.
        stream.synchronize()
        view = mirror.download((4,), np.int64)
        view[:] = -1
        assert len(gpu.queue) == 1
        stream.synchronize()
        assert view.tolist() == [0, 1, 2, 3]


def test_events_measure(gpu: Any, cuda: Any) -> None:
    with cuda.Stream() as stream, cuda.Event() as start, cuda.Event() as stop:
        start.record(stream)
        gpu.enqueue(lambda: setattr(gpu, "clock", gpu.clock + 1.5))
        stop.record(stream)
        stream.synchronize()
        assert stop.milliseconds_since(start) == 1.5
    assert not gpu.live


def test_a_graph_does_its_work_again(gpu: Any, cuda: Any) -> None:
    done: list[int] = []
    with cuda.Stream() as stream:
        graph = cuda.Graph(stream, lambda: gpu.enqueue(lambda: done.append(1)))
        stream.synchronize()
        assert done == []
        graph.launch()
        graph.launch()
        stream.synchronize()
        assert done == [1, 1]
        graph.close()
        graph.close()
    assert not gpu.live


@pytest.mark.parametrize("error", [PpsrError("no"), KeyboardInterrupt()])
def test_a_failed_recording_leaves_the_stream_usable(
    gpu: Any, cuda: Any, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    with cuda.Stream() as stream:
        with pytest.raises(type(error)):
            cuda.Graph(stream, fail)
        assert gpu.recording is None
        stream.synchronize()
    assert not gpu.live


@pytest.mark.parametrize(
    "call",
    ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"],
)
def test_a_graph_that_cannot_be_made_leaves_nothing(gpu: Any, cuda: Any, call: str) -> None:
    with cuda.Stream() as stream:
        failing(gpu, call)
        with pytest.raises(PpsrError, match=f"the GPU failed: {call} returned cudaErrorIllegalAd"):
            cuda.Graph(stream, lambda: None)
    assert not gpu.live


def test_both_sides_are_freed_even_if_one_fails(gpu: Any, cuda: Any) -> None:
    with cuda.Stream() as stream:
        mirror = cuda.Mirror(stream)
        mirror.reserve(24)
        failing(gpu, "cudaFree", "cudaFreeHost")
        with pytest.raises(PpsrError, match="cudaFree"):
            mirror.close()
        mirror.close()
        assert [kind for kind, _ in gpu.live.values()] == ["stream"]


def test_the_real_driver_answers_in_words() -> None:
    cuda = pytest.importorskip("ppsr.runtime.cuda", exc_type=ImportError)
    reason = cuda.probe()
    assert reason is None or ("\n" not in reason and len(reason) < 200)


def test_the_real_bindings_take_and_give_what_the_fake_does() -> None:
    """Without a driver each call fails, but only after it has looked at its arguments."""
    real = pytest.importorskip("cuda.bindings.runtime")
    no_driver = real.cudaError_t.cudaErrorInsufficientDriver
    if real.cudaGetDeviceCount()[0] != no_driver:
        pytest.skip("handles that are none would reach the driver")
    stream, event = real.cudaStream_t(), real.cudaEvent_t()
    graph, launchable = real.cudaGraph_t(), real.cudaGraphExec_t()
    mode = real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    up = real.cudaMemcpyKind.cudaMemcpyHostToDevice
    arguments = {
        "cudaGetDeviceCount": (),
        "cudaGetDeviceProperties": (0,),
        "cudaStreamCreateWithFlags": (real.cudaStreamNonBlocking,),
        "cudaStreamDestroy": (stream,),
        "cudaStreamSynchronize": (stream,),
        "cudaMalloc": (256,),
        "cudaFree": (4096,),
        "cudaMallocHost": (256,),
        "cudaFreeHost": (4096,),
        "cudaMemcpyAsync": (4096, 8192, 16, up, stream),
        "cudaEventCreate": (),
        "cudaEventDestroy": (event,),
        "cudaEventRecord": (event, stream),
        "cudaEventElapsedTime": (event, event),
        "cudaStreamBeginCapture": (stream, mode),
        "cudaStreamEndCapture": (stream,),
        "cudaGraphInstantiate": (graph, 0),
        "cudaGraphDestroy": (graph,),
        "cudaGraphExecDestroy": (launchable,),
        "cudaGraphLaunch": (launchable, stream),
    }
    for name, given in arguments.items():
        status, *results = getattr(real, name)(*given)
        assert status == no_driver
        assert bool(results) == (name in GIVING), name
    assert int(stream) == 0


GIVING = (
    *("cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaStreamCreateWithFlags", "cudaMalloc"),
    *("cudaMallocHost", "cudaEventCreate", "cudaEventElapsedTime", "cudaStreamEndCapture"),
    "cudaGraphInstantiate",
)
"""Functions with a result beside their status."""
