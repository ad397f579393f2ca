"""The backend on TensorRT and TensorRT for RTX: engines on an NVIDIA GPU, without torch.

``tensorrt`` and ``tensorrt-rtx`` have one interface; which of them a plan needs is in its sidecar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.config import SCALES, PurePass
from ppsr.models.errors import ArtefactError, BackendUnavailable, PpsrError, UsageError
from ppsr.models.registry import names_routed

from . import cuda
from .artefact import ACTIVE, ATTENDED, COUNT, INPUT, OUTPUT, Artefact
from .backend import ROUTING, Arrays, Closing
from .engine import Engine
from .files import require_readable
from .plan import load_plan
from .sidecar import ShapeRange, routing_path

NETWORK = {INPUT: "FLOAT", ACTIVE: "INT64", OUTPUT: "FLOAT", ATTENDED: "INT32"}
"""Types of the tensors of a network, of which it has some."""
ROUTER = {INPUT: "FLOAT", ACTIVE: "INT64", COUNT: "INT32"}
"""Tensors of a routing engine."""


class TrtBackend(Closing):
    """A plan, and its routing engine where one lies beside it (``<stem>_routing.plan``).

    With a routing engine the picture goes to the GPU once, the active tokens never leave it on
    their way to the network, and their number alone is waited for. Without one, and for tiles,
    whose mask is that of the whole picture, ``run`` is told the active tokens.
    """

    device = "CUDA"

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        """Load the plan ``path``.

        ``trust`` takes one without a sidecar and supposes the paper's routing. Raises ArtefactError
        for a file that is no plan of ours, BackendUnavailable where it cannot run here: no driver,
        or a TensorRT or a GPU that it was not built for.
        """
        require_readable(path)
        if reason := cuda.probe():
            raise BackendUnavailable(
                f"{path} needs an NVIDIA GPU, but {reason}; run the .onnx file instead"
            )
        gpu = cuda.first_gpu()
        self._failed = self._closed = False
        self._resources = ExitStack()
        try:
            self._stream = self._resources.enter_context(cuda.Stream())
            self._image, self._active, self._output, self._attended, self._count = (
                self._resources.enter_context(cuda.Mirror(self._stream)) for _ in range(5)
            )
            self._started, self._routed = (
                self._resources.enter_context(cuda.Event()) for _ in range(2)
            )
            self._network, self.artefact = self._open_network(path, gpu, trust)
            self._router = self._open_router(routing_path(path), gpu, trust)
            # Last in, first out: nothing is freed while the GPU works with it.
            self._resources.callback(self._stream.synchronize)
        except BaseException:
            with suppress(PpsrError):
                self._resources.close()
            raise

    @property
    def wants_active(self) -> bool:
        """Whether ``run`` must be told the active tokens: masked, and no routing engine."""
        return self.artefact.takes_active and self._router is None

    @property
    def profiles(self) -> Sequence[ShapeRange]:
        """The sizes the network was built for."""
        return self._network.profiles

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once. Raises UsageError where the picture has a size that no profile takes.

        Raises PpsrError where the GPU fails or the model is closed.
        """
        if self._closed:
            raise PpsrError("this model is closed")
        try:
            return self._run(feed)
        except BaseException as error:
            self._failed = self._failed or not isinstance(error, UsageError)
            with suppress(PpsrError):  # What is queued still reads and writes our memory.
                self._stream.synchronize()
            raise

    def close(self) -> None:
        """Free everything, after what still runs. A second call does nothing.

        Raises PpsrError where the GPU refuses, unless a run has told of its failure before.
        """
        self._closed = True
        try:
            self._resources.close()
        except PpsrError:
            if not self._failed:
                raise

    def _run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        image = feed[INPUT]
        uploads: list[tuple[cuda.Mirror, npt.NDArray[Any]]] = []
        tokens: int | None = None
        router = None if ACTIVE in feed else self._router
        if router is not None:
            tokens = self._route(router, image)
        else:
            uploads.append((self._image, image))
            if self.artefact.takes_active:
                tokens = len(feed[ACTIVE])
                uploads.append((self._active, feed[ACTIVE]))
        self._network.shape(image.shape[2:], tokens)
        outputs = {OUTPUT: (self._output, np.float32), ATTENDED: (self._attended, np.int32)}
        shapes = {name: self._network.output_shape(name) for name in self.artefact.outputs}
        # All memory first: to free what is too small would wait for what is queued.
        for name, shape in shapes.items():
            outputs[name][0].reserve(math.prod(shape) * 4)
        for mirror, array in uploads:
            mirror.reserve(array.nbytes)
        for mirror, array in uploads:
            mirror.upload(array)
        addresses = {INPUT: self._image.address}
        addresses |= {name: outputs[name][0].address for name in shapes}
        if tokens is not None:
            addresses[ACTIVE] = self._active.address
        self._network.enqueue(addresses)
        views: dict[str, npt.NDArray[Any]] = {}
        for name, shape in shapes.items():
            mirror, dtype = outputs[name]
            views[name] = mirror.download(shape, dtype)
        if router is not None and tokens is not None:
            views[ACTIVE] = self._active.download((tokens,), np.int64)
        self._stream.synchronize()
        # The views are of memory that the next picture overwrites.
        arrays = {name: view.copy() for name, view in views.items()}
        if router is not None:
            self._require_tokens(arrays.get(ACTIVE), math.prod(image.shape[2:]))
            arrays[ROUTING] = np.array(self._routed.milliseconds_since(self._started))
        return arrays

    def _route(self, router: Engine, image: npt.NDArray[Any]) -> int:
        """Upload the picture and find its active tokens, which stay on the GPU -> their number."""
        pixels = math.prod(image.shape[2:])
        router.shape(image.shape[2:])
        self._image.reserve(image.nbytes)
        self._active.reserve(pixels * 8)
        self._count.reserve(4)
        self._image.upload(image)
        buffers = {INPUT: self._image, ACTIVE: self._active, COUNT: self._count}
        self._started.record(self._stream)
        router.enqueue({name: buffer.address for name, buffer in buffers.items()})
        count = self._count.download((1,), np.int32)
        self._routed.record(self._stream)
        self._stream.synchronize()
        if not 0 <= count[0] <= pixels:
            raise PpsrError(
                f"the routing engine found {count[0]} active tokens of {pixels}; export it again"
            )
        return int(count[0])

    @staticmethod
    def _require_tokens(active: npt.NDArray[Any] | None, pixels: int) -> None:
        """Raise PpsrError where a routing engine named tokens that the picture has not."""
        if active is not None and len(active) and not 0 <= active[0] <= active[-1] < pixels:
            raise PpsrError("the routing engine found tokens outside the picture; export it again")

    def _open_network(self, path: Path, gpu: cuda.Gpu, trust: bool) -> tuple[Engine, Artefact]:
        loaded = load_plan(path, gpu, trust)
        self._resources.callback(loaded.close)
        artefact = loaded.sidecar.artefact if loaded.sidecar else None
        if artefact:
            artefact.require_upscaling(str(path))
        takes_active = artefact.takes_active if artefact else ACTIVE in loaded.tensors()
        unknown = (INPUT, ACTIVE, OUTPUT) if takes_active else (INPUT, OUTPUT)
        names = (*artefact.inputs, *artefact.outputs) if artefact else unknown
        loaded.require_tensors({name: NETWORK[name] for name in names})
        network = Engine(loaded, self._stream, takes_active)
        self._resources.callback(network.close)
        if artefact is None:
            artefact = _shown_by(network, takes_active)
            self._stream.synchronize()  # A switch of profiles may be on its way.
        return network, artefact

    def _open_router(self, path: Path, gpu: cuda.Gpu, trust: bool) -> Engine | None:
        if not (self.artefact.takes_active and path.exists()):
            return None
        loaded = load_plan(path, gpu, trust)
        self._resources.callback(loaded.close)
        loaded.require_tensors(ROUTER)
        if loaded.sidecar and loaded.sidecar.artefact.pure_pass != self.artefact.pure_pass:
            raise ArtefactError(
                f"{path} routes with other settings than the engine it lies beside; "
                "export both again"
            )
        router = Engine(loaded, self._stream, takes_active=False)
        self._resources.callback(router.close)
        return router


def _shown_by(network: Engine, takes_active: bool) -> Artefact:
    """The identity of an engine without a sidecar: what it shows, and the paper's routing."""
    smallest = network.profiles[0]
    network.shape(smallest.min, smallest.tokens and smallest.tokens[0])
    scale = network.output_shape(OUTPUT)[-1] / max(1, smallest.min[1])
    if scale not in SCALES:
        raise ArtefactError(f"this engine makes pictures {scale:g} times larger, none of {SCALES}")
    return Artefact(
        model=names_routed("index" if takes_active else "none")[0],
        scale=int(scale),
        form="routed",
        precision="unknown",
        opset=0,
        weights_sha256="unknown",
        version="unknown",
        pure_pass=PurePass() if takes_active else None,
    )
