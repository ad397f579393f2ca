"""A GPU, its driver and both TensorRT, as far as ppsr uses them; every call is recorded.

Work is queued and done when the stream is waited for, as on a real one: what is read too early is
not there yet. Copies and kernels touch live memory only, else the test fails.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import ppsr.runtime
from ppsr.models.pure_pass import active_tokens, pure_pixels

FRESH = ("cuda", "plan", "engine", "trt")
"""Modules of ppsr.runtime that hold on to what they imported."""


Status = enum.IntEnum(
    "Status",
    {
        "cudaSuccess": 0,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInsufficientDriver": 35,
        "cudaErrorNoDevice": 100,
        "cudaErrorIllegalAddress": 700,
        "cudaErrorUnknown": 999,
    },
)


class FakeGpu:
    """State of the machine. ``before(index, name)`` is asked before each call; a Status fails it.

    A call of TensorRT fails with any Status, in TensorRT's way.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.before: Callable[[int, str], Status | None] = lambda index, name: None
        self.live: dict[int, tuple[str, Any]] = {}
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.seen: list[npt.NDArray[np.int64]] = []
        """The active tokens of each run of a network that takes them."""
        self.driver, self.devices = 13000, 1
        self.name, self.capability = "NVIDIA H200", (9, 0)
        self.clock = 0.0
        self.records = True
        """False: engines cannot be recorded."""
        self._next = 1000
        self._recent: deque[Any] = deque(maxlen=64)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def step(self, name: str, *arguments: Any) -> Status | None:
        self.calls.append((name, *arguments))
        return self.before(len(self.calls) - 1, name)

    def new(self, kind: str, content: Any = None) -> int:
        self._next += 1
        self.live[self._next] = (kind, content)
        return self._next

    def allocate(self, kind: str, size: int) -> int:
        raw = (ctypes.c_byte * (size + 256))()
        address = -(-ctypes.addressof(raw) // 256) * 256
        ctypes.memset(address, 0x7F, size)
        self.live[address] = (kind, (raw, size))
        self._recent.append(raw)  # So that no address comes again soon.
        return address

    def free(self, kind: str, handle: int) -> None:
        assert self.live.pop(int(handle))[0] == kind
        # A graph may go at any time: what it has queued stays queued.
        assert not self.queue or kind == "exec", "freed while the GPU works"

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        count = int(np.prod(shape))
        kind, (_, size) = self.live[address]
        assert kind == "device"
        assert count * np.dtype(dtype).itemsize <= size
        raw = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(raw, dtype)[:count].reshape(shape)

    def enqueue(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def runtime(self) -> ModuleType:
        """The module ``cuda.bindings.runtime``."""
        module = ModuleType("cuda.bindings.runtime")
        enums: dict[str, Any] = {
            "cudaError_t": Status,
            "cudaStreamNonBlocking": 1,
            "cudaMemcpyKind": SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2),
            "cudaStreamCaptureMode": SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
            "cudaGetErrorName": lambda status: (Status.cudaSuccess, status.name.encode()),
        }
        for name, value in enums.items():
            setattr(module, name, value)

        for name, work in _functions(self).items():
            setattr(module, name, self._checked(name, work))
        return module

    def _checked(self, name: str, work: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            failed = self.step(name, *arguments)
            if name == "cudaGetDeviceCount" and not self.devices:
                failed = failed or Status.cudaErrorNoDevice
            if failed and name in FREES:
                work(*arguments)  # There is no second chance; it is not a leak of ours.
            if failed and name == "cudaStreamSynchronize":
                self.queue.clear()  # Such a failure ends all work.
            if failed and name == "cudaStreamEndCapture":
                self.recording = None  # And this one the recording.
            result = None if failed else work(*arguments)
            status = failed or Status.cudaSuccess
            return (status,) if name in VOID else (status, result)

        call.__name__ = name
        return call


FREES = (
    *("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy"),
    *("cudaGraphDestroy", "cudaGraphExecDestroy"),
)
VOID = (
    *FREES,
    *("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaEventRecord", "cudaStreamBeginCapture"),
    "cudaGraphLaunch",
)


def _functions(gpu: FakeGpu) -> dict[str, Callable[..., Any]]:
    """The functions of the runtime, by name, without their status."""

    def properties(index: int) -> Any:
        major, minor = gpu.capability
        return SimpleNamespace(name=gpu.name.encode(), major=major, minor=minor)

    def synchronize(stream: int) -> None:
        assert gpu.live[stream][0] == "stream"
        assert gpu.recording is None
        work, gpu.queue = gpu.queue, []
        for step in work:
            step()

    def copy(target: int, source: int, size: int, kind: int, stream: int) -> None:
        kinds = ("device", "host") if kind == 1 else ("host", "device")
        for address, expected in zip((target, source), kinds, strict=True):
            found, (_, room) = gpu.live[address]
            assert found == expected
            assert 0 < size <= room
        gpu.enqueue(lambda: ctypes.memmove(target, source, size) and None)

    def record(event: int, stream: int) -> None:
        mark = gpu.live[event][1]
        gpu.enqueue(lambda: mark.__setitem__(0, gpu.clock))

    def elapsed(start: int, stop: int) -> float:
        assert not gpu.queue
        return float(gpu.live[stop][1][0] - gpu.live[start][1][0])

    def begin(stream: int, mode: int) -> None:
        assert gpu.recording is None
        gpu.recording = []

    def end(stream: int) -> int:
        recorded, gpu.recording = gpu.recording, None
        return gpu.new("graph", recorded)

    return {
        "cudaGetDeviceCount": lambda: gpu.devices,
        "cudaDriverGetVersion": lambda: gpu.driver,
        "cudaGetDeviceProperties": properties,
        "cudaStreamCreateWithFlags": lambda flags: gpu.new("stream"),
        "cudaStreamDestroy": lambda stream: gpu.free("stream", stream),
        "cudaStreamSynchronize": synchronize,
        "cudaMalloc": lambda size: gpu.allocate("device", size),
        "cudaFree": lambda address: gpu.free("device", address),
        "cudaMallocHost": lambda size: gpu.allocate("host", size),
        "cudaFreeHost": lambda address: gpu.free("host", address),
        "cudaMemcpyAsync": copy,
        "cudaEventCreate": lambda: gpu.new("event", [0.0]),
        "cudaEventDestroy": lambda event: gpu.free("event", event),
        "cudaEventRecord": record,
        "cudaEventElapsedTime": elapsed,
        "cudaStreamBeginCapture": begin,
        "cudaStreamEndCapture": end,
        "cudaGraphInstantiate": lambda graph, flags: gpu.new("exec", gpu.live[graph][1]),
        "cudaGraphDestroy": lambda graph: gpu.live.pop(graph) and None,
        "cudaGraphExecDestroy": lambda graph: gpu.free("exec", graph),
        "cudaGraphLaunch": lambda graph, stream: gpu.queue.extend(gpu.live[graph][1]),
    }


def plan_bytes(**changes: Any) -> bytes:
    """A plan that the fakes load: an engine that repeats pixels, or with ``kind="router"`` routes.

    ``tensors`` by name, ``profiles`` of (min, opt, max) sizes.
    """
    content = {
        "kind": "network",
        "scale": 2,
        "profiles": [[[16, 16], [64, 64], [128, 128]], [[64, 64], [192, 320], [256, 512]]],
        "tensors": {"input": "FLOAT", "output": "FLOAT", "active": "INT64"},
        **changes,
    }
    return b"vtrt" + json.dumps(content).encode()


class FakeEngine:
    def __init__(self, gpu: FakeGpu, data: bytes, log: Any) -> None:
        self.gpu, self.log = gpu, log
        self.content: dict[str, Any] = json.loads(data[4:])
        self.tensors: dict[str, str] = self.content["tensors"]
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = len(self.content["profiles"])
        self.takes_active = self.content["kind"] == "network" and "active" in self.tensors

    def fail(self, message: str) -> None:
        self.log.log(self.log.ERROR, message)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        low, best, high = self.content["profiles"][index]
        if name == "active":
            return [(0,), (best[0] * best[1] // 2,), (high[0] * high[1],)]
        return [(1, 3, *size) for size in (low, best, high)]

    def create_execution_context(self, how: Any) -> Any:
        if self.gpu.step("create_execution_context", how):
            return None
        return FakeContext(self)

    def create_runtime_config(self) -> Any:
        if self.gpu.step("create_runtime_config"):
            return None
        config = SimpleNamespace(cuda_graph_strategy="disabled", strategy=None)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(
            config, "strategy", strategy
        )
        return config

    def __del__(self) -> None:
        self.gpu.calls.append(("~engine",))


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.gpu = engine, engine.gpu
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if self.gpu.step("set_optimization_profile_async", index, stream):
            return False
        self.profile, self.shapes = index, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        assert all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if self.gpu.step("set_input_shape", name, shape):
            return False
        self.shapes[name] = shape
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        if self.gpu.step("update_device_memory_size_for_shapes"):
            self.engine.fail("no size")
            return 0
        return self._needed()

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.gpu.live[address][0] == "device"
        if self.gpu.step("set_device_memory") or size < self._needed():
            self.engine.fail("too small")
            return
        self.memory = (address, size)

    def _needed(self) -> int:
        _, _, height, width = self.shapes["input"]
        return int(height * width * 10)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        _, _, height, width = self.shapes["input"]
        scale = self.engine.content["scale"]
        own = {"output": (1, 3, scale * height, scale * width), "attended": (1, 1, height, width)}
        return own[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self.gpu.step("set_tensor_address", name, address):
            return False
        assert address % 256 == 0 != address
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.gpu.step("execute_async_v3", stream):
            return False
        if self.gpu.recording is not None and not self.gpu.records:
            return False
        assert self.gpu.live[stream][0] == "stream"
        assert set(self.addresses) == set(self.engine.tensors)
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        kernel = self._route if self.engine.content["kind"] == "router" else self._enlarge
        memory, needed = self.memory[0], self._needed()

        def work() -> None:
            self.gpu.view(memory, (needed,), np.uint8)[...] = 0xFF
            kernel(shapes, addresses)

        self.gpu.enqueue(work)
        return True

    def _enlarge(self, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        gpu, scale = self.gpu, self.engine.content["scale"]
        image = gpu.view(addresses["input"], shapes["input"], np.float32)
        if self.engine.takes_active:
            gpu.seen.append(gpu.view(addresses["active"], shapes["active"], np.int64).copy())
        output = image.repeat(scale, 2).repeat(scale, 3)
        gpu.view(addresses["output"], output.shape, np.float32)[...] = output
        if "attended" in addresses:
            red = np.rint(image[:, :1] * 255).astype(np.int32)
            gpu.view(addresses["attended"], red.shape, np.int32)[...] = 1 + red // 64
        gpu.clock += 5

    def _route(self, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        gpu = self.gpu
        image = gpu.view(addresses["input"], shapes["input"], np.float32)
        rgb = np.rint(image[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        active = active_tokens(pure_pixels(rgb))
        gpu.view(addresses["active"], (rgb.shape[0] * rgb.shape[1],), np.int64)[: len(active)] = (
            active
        )
        count = self.engine.content.get("count", len(active))
        gpu.view(addresses["count"], (1,), np.int32)[0] = count
        gpu.clock += 0.25

    def __del__(self) -> None:
        self.gpu.calls.append(("~context",))


def tensorrt(gpu: FakeGpu, name: str, version: str) -> ModuleType:
    """The module ``tensorrt`` or ``tensorrt_rtx``; the second records graphs on its own."""
    module: Any = ModuleType(name)
    module.__version__ = version
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    if name == "tensorrt_rtx":
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Runtime:
        def __init__(self, log: Any) -> None:
            if gpu.step("Runtime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.log = log

        def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
            self.log.log(ILogger.WARNING, "a warning")
            if gpu.step("deserialize_cuda_engine") or not data.startswith(b"vtrt"):
                self.log.log(ILogger.ERROR, "Serialization assertion failed\nIn runtime.cpp:48")
                self.log.log(ILogger.ERROR, "Error Code 1")
                return None
            return FakeEngine(gpu, data, self.log)

        def __del__(self) -> None:
            gpu.calls.append(("~runtime",))

    module.ILogger, module.Runtime = ILogger, Runtime
    return module  # type: ignore[no-any-return]


def install(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Put the fakes where imports find them, for one test."""
    gpu = FakeGpu()
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = gpu.runtime()
    modules = {
        "cuda": ModuleType("cuda"),
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": bindings.runtime,
        "tensorrt": tensorrt(gpu, "tensorrt", "11.4.0.106"),
        "tensorrt_rtx": tensorrt(gpu, "tensorrt_rtx", "1.7.1.116"),
    }
    for name, module in modules.items():
        module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    for name in FRESH:
        monkeypatch.delitem(sys.modules, f"ppsr.runtime.{name}", raising=False)
        monkeypatch.delattr(ppsr.runtime, name, raising=False)
    return gpu


def forget() -> None:
    """Drop what imported the fakes."""
    for name in FRESH:
        sys.modules.pop(f"ppsr.runtime.{name}", None)
        vars(ppsr.runtime).pop(name, None)
