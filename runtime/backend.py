"""The one seam between pictures and whatever computes: names in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

import numpy.typing as npt

from ppsr.models.errors import UsageError

from .artefact import Artefact
from .sidecar import ShapeRange

Arrays = Mapping[str, npt.NDArray[Any]]
Device = Literal["auto", "cpu", "cuda", "openvino", "openvino-bf16"]
"""What to run on: the CPU by onnxruntime or OpenVINO (there in BF16 too), or CUDA."""
ROUTING = "routing_milliseconds"
"""Among the outputs of a backend that routes on its device: how long that took."""
MAX_THREADS = 1024
"""Backends start as many as they are told, and fail where the system has no more."""


class Backend(Protocol):
    """One loaded model. Inputs are checked by the caller, before they come here."""

    @property
    def artefact(self) -> Artefact:
        """What the model file says of itself."""

    @property
    def device(self) -> str:
        """Where it runs, as a user would say it: "CPU", "CPU, OpenVINO", "CUDA"."""

    @property
    def wants_active(self) -> bool:
        """Whether ``run`` must be told the active tokens; else graph or device finds its own."""

    @property
    def profiles(self) -> Sequence[ShapeRange]:
        """The sizes it takes, of which one must fit; empty: any."""

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once. ``input`` float32 1 3 H W, ``active`` int64 n -> the artefact's ``outputs``.

        H and W are multiples of 16; ``output`` is 1 3 S*H S*W, ``attended`` int32 1 1 H W. A
        backend that routes on its device, and is not told the active tokens, also returns
        ``active``, int64 n in rising order, and ``ROUTING``, float64 without axes.
        """

    def close(self) -> None:
        """Free the model: ``run`` raises PpsrError afterwards, a second call does nothing."""


def require_options(device: object, threads: object) -> None:
    """Raise UsageError unless these are a ``Device`` and None or a sensible number of threads."""
    if device not in get_args(Device):
        raise UsageError(f"expected a device of {', '.join(get_args(Device))}, got {device!r}")
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise UsageError(f"expected 1 to {MAX_THREADS} threads, got {threads!r}")


class Closing:
    """Make a class with ``close`` a context manager."""

    def close(self) -> None:
        """Free what is held."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
