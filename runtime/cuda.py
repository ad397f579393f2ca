"""CUDA without torch: a stream, memory that is kept, copies, events, graphs; every call checked.

The only file that imports cuda-bindings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cudart

from ppsr.models.errors import BackendUnavailable, PpsrError

from .backend import Closing
from .tensorrt_log import first_line

ALIGNMENT = 256
"""Bytes: what TensorRT asks of an address, and the least that is allocated."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as engines are bound to it."""

    name: str
    compute_capability: str
    """As "8.9"."""


def probe() -> str | None:
    """Say why nothing can run on a GPU here; None where it can. Never raises.

    Without a driver some TensorRT kills the process: ask here before it is touched.
    """
    try:
        status, count = cudart.cudaGetDeviceCount()
        if status == cudart.cudaError_t.cudaErrorNoDevice or not (_failed(status) or count):
            return "the driver finds no GPU"
        if not _failed(status):
            return None
        found, version = cudart.cudaDriverGetVersion()
        if not _failed(found) and not version:
            return f"no NVIDIA driver is installed ({_name(status)})"
        if status == cudart.cudaError_t.cudaErrorInsufficientDriver:
            return f"the NVIDIA driver is too old, for CUDA {version // 1000} ({_name(status)})"
        return f"the NVIDIA driver does not start ({_name(status)})"
    except (RuntimeError, OSError) as error:
        return f"CUDA cannot be loaded ({first_line(error)})"


def first_gpu() -> Gpu:
    """Return the GPU that everything runs on. Raises BackendUnavailable where it is silent."""
    try:
        properties = _call(cudart.cudaGetDeviceProperties, 0)
    except PpsrError as error:
        raise BackendUnavailable(f"the GPU does not answer: {error}") from error
    return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")


class Stream(Closing):
    """A queue of work on the GPU, independent of all others."""

    def __init__(self) -> None:
        self.handle: Any = _call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)

    def __int__(self) -> int:
        """The handle as TensorRT takes it."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until everything in the queue is done."""
        _call(cudart.cudaStreamSynchronize, self.handle)

    def close(self) -> None:
        """Destroy the stream. A second call does nothing."""
        handle, self.handle = self.handle, None
        if handle is not None:
            _call(cudart.cudaStreamDestroy, handle)


class Memory(Closing):
    """Memory that grows when more is asked for, and else is kept for the next picture."""

    def __init__(self, allocate: Any = cudart.cudaMalloc, free: Any = cudart.cudaFree) -> None:
        self._allocate, self._free = allocate, free
        self.address = 0
        self.size = 0
        """Bytes, a multiple of 256."""

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes; 0 has an address too. What it held is lost if it grows.

        Nothing may be using it. Raises PpsrError where there is not enough.
        """
        if self.address and size <= self.size:
            return
        self.close()  # First: the old and the new one might not fit together.
        rounded = max(-(-size // ALIGNMENT), 1) * ALIGNMENT
        self.address = int(_call(self._allocate, rounded))
        self.size = rounded

    def close(self) -> None:
        """Free it. ``reserve`` may follow."""
        address, self.address, self.size = self.address, 0, 0
        if address:
            _call(self._free, address)


class Mirror(Closing):
    """One tensor on both sides: on the GPU, and page-locked on the host, to copy at full speed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._device = Memory()
        self._host = Memory(cudart.cudaMallocHost, cudart.cudaFreeHost)

    @property
    def address(self) -> int:
        """On the GPU; 0 before the first ``reserve``."""
        return self._device.address

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes on both sides, as ``Memory.reserve`` does."""
        self._device.reserve(size)
        self._host.reserve(size)

    def upload(self, array: npt.NDArray[Any]) -> None:
        """Queue a copy of ``array`` to the GPU; there is room. The array itself is free at once."""
        self._view(array.shape, array.dtype)[...] = array
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self._device.address, self._host.address, array.nbytes, kind)

    def download(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Queue a copy from the GPU -> a view, true once the stream is synchronised.

        It is valid until the next upload, download, ``reserve`` or close.
        """
        view = self._view(shape, np.dtype(dtype))
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(self._host.address, self._device.address, view.nbytes, kind)
        return view

    def close(self) -> None:
        """Free both sides."""
        with ExitStack() as both:
            both.callback(self._host.close)
            both.callback(self._device.close)

    def _view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        count = int(np.prod(shape))
        raw = memoryview((ctypes.c_byte * self._host.size).from_address(self._host.address))
        whole: npt.NDArray[Any] = np.frombuffer(raw, dtype)
        return whole[:count].reshape(shape)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        if size:
            _call(cudart.cudaMemcpyAsync, target, source, size, kind, self._stream.handle)


class Event(Closing):
    """A mark in a stream that remembers when the GPU passed it."""

    def __init__(self) -> None:
        self._handle: Any = _call(cudart.cudaEventCreate)

    def record(self, stream: Stream) -> None:
        """Queue the mark."""
        _call(cudart.cudaEventRecord, self._handle, stream.handle)

    def milliseconds_since(self, start: Event) -> float:
        """Time between two marks; both must have been passed."""
        return float(_call(cudart.cudaEventElapsedTime, start._handle, self._handle))

    def close(self) -> None:
        """Destroy it. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _call(cudart.cudaEventDestroy, handle)


class Graph(Closing):
    """Work recorded from a stream, to be queued again in one call, with the same addresses."""

    def __init__(self, stream: Stream, record: Callable[[], None]) -> None:
        """Record what ``record`` queues; nothing runs yet."""
        self._stream = stream
        self._handle: Any = None
        # Only this thread is held to what may be recorded.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(cudart.cudaStreamBeginCapture, stream.handle, mode)
        try:
            record()
        except BaseException:
            with suppress(PpsrError):  # The stream must leave its recording, whatever it says.
                _call(cudart.cudaGraphDestroy, _call(cudart.cudaStreamEndCapture, stream.handle))
            raise
        recorded = _call(cudart.cudaStreamEndCapture, stream.handle)
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._handle = _call(cudart.cudaGraphInstantiate, recorded, 0)
            finally:
                _call(cudart.cudaGraphDestroy, recorded)
            undo.pop_all()

    def launch(self) -> None:
        """Queue the recorded work."""
        _call(cudart.cudaGraphLaunch, self._handle, self._stream.handle)

    def close(self) -> None:
        """Destroy it. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _call(cudart.cudaGraphExecDestroy, handle)


def _call(function: Any, *arguments: Any) -> Any:
    """Call a CUDA function -> its one result, None without. Raises PpsrError where it fails."""
    status, *results = function(*arguments)
    if _failed(status):
        if status == cudart.cudaError_t.cudaErrorMemoryAllocation:
            where = "page-locked" if function is cudart.cudaMallocHost else "GPU"
            raise PpsrError(
                f"not enough {where} memory ({_name(status)}); use smaller tiles, or a smaller "
                "picture"
            )
        raise PpsrError(f"the GPU failed: {function.__name__} returned {_name(status)}")
    return results[0] if results else None


def _failed(status: Any) -> bool:
    return bool(status != cudart.cudaError_t.cudaSuccess)


def _name(status: Any) -> str:
    """The error's name, which can be looked up."""
    _, name = cudart.cudaGetErrorName(status)
    return name.decode() if isinstance(name, bytes) else str(status)
