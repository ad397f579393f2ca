"""One loaded engine: which profile a picture takes, its shapes, its memory, its launch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ppsr.models.errors import ArtefactError, PpsrError, UsageError
from ppsr.models.pure_pass import GRID

from .artefact import ACTIVE, INPUT
from .backend import Closing
from .cuda import Graph, Memory, Stream
from .plan import Loaded
from .sidecar import ShapeRange, Size


class Engine(Closing):
    """A plan that can be run again and again, on pictures of different sizes.

    TensorRT's working memory is ours and as large as it says the picture needs: on its own it would
    take what the largest picture of all profiles needs, at once.

    CUDA graphs hold shapes and addresses, so one pays only where the same shapes come again. The
    list of active tokens has another length for each picture: an engine that takes one is always
    queued layer by layer (a graph would serve benchmarks of one picture, nothing else). The others,
    dense and routing ones, know the size alone; theirs is recorded when a size comes the second
    time in a row, and kept until another one comes.
    """

    def __init__(self, loaded: Loaded, stream: Stream, takes_active: bool) -> None:
        """``loaded`` has to outlive this. ``takes_active``: one of its inputs is ``active``.

        Raises PpsrError where TensorRT refuses.
        """
        self._stream = stream
        self._loaded = loaded
        self._workspace = Memory()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._queued: object = None
        self._graph: Graph | None = None
        self.profiles = _profiles(loaded, takes_active)
        self._records = not takes_active
        self._context = self._new_context()
        if self._context is None:
            raise loaded.refused("to make an execution context")
        self._profile = -1

    def shape(self, size: Size, tokens: int | None = None) -> None:
        """Get ready for a padded picture of ``size`` and so many active tokens.

        Nothing may be running. Raises UsageError where no profile takes it, PpsrError where there
        is not enough memory.
        """
        self._loaded.log.said = ""
        shapes: dict[str, tuple[int, ...]] = {INPUT: (1, 3, *size)}
        if tokens is not None:
            shapes[ACTIVE] = (tokens,)
        if shapes == self._shapes:
            return
        self._forget()
        self._shapes = {}
        profile = choose_profile(self.profiles, size, tokens)
        if profile != self._profile:
            self._profile = -1
            stream = int(self._stream)
            self._do(f"profile {profile}", "set_optimization_profile_async", profile, stream)
            self._profile = profile
        for name, shape in shapes.items():
            self._do(f"the shape {shape} of {name}", "set_input_shape", name, shape)
        self._workspace.reserve(self._context.update_device_memory_size_for_shapes())
        self._context.set_device_memory(self._workspace.address, self._workspace.size)
        if self._loaded.log.said:  # Neither call tells by itself that it failed.
            raise self._loaded.refused("the working memory")
        self._shapes = shapes

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an output for the picture of the last ``shape``."""
        shape = tuple(self._context.get_tensor_shape(name))
        if not self._shapes or min(shape, default=0) < 0:
            raise self._loaded.refused(f"to tell the shape of {name}")
        return shape

    def enqueue(self, addresses: Mapping[str, int]) -> None:
        """Queue one run on the stream; addresses of all inputs and outputs on the GPU, by name."""
        work = (self._shapes, dict(addresses))
        if work != self._queued:
            self._forget()
            for name, address in addresses.items():
                self._do(f"the address of {name}", "set_tensor_address", name, address)
        elif self._records and self._graph is None:
            try:
                self._graph = Graph(self._stream, self._execute)
            except PpsrError:  # Not every engine can be recorded; all can be run.
                self._records = False
                self._loaded.log.said = ""
        if self._graph is not None:
            self._graph.launch()
        else:
            self._execute()
        self._queued = work

    def close(self) -> None:
        """Free graph, context and working memory, in this order."""
        with ExitStack() as stack:
            stack.callback(self._workspace.close)
            stack.callback(setattr, self, "_context", None)
            stack.callback(self._forget)

    def _new_context(self) -> Any:
        trt, engine = self._loaded.trt, self._loaded.engine
        ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not (self._records and hasattr(trt, "CudaGraphStrategy")):
            return engine.create_execution_context(ours)
        # This TensorRT compiles better kernels while it runs and knows when to record anew.
        self._records = False
        config = engine.create_runtime_config()
        if config is None:
            return None
        config.set_execution_context_allocation_strategy(ours)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    def _execute(self) -> None:
        self._do("to run", "execute_async_v3", int(self._stream))

    def _forget(self) -> None:
        """Free the graph: it holds shapes and addresses."""
        graph, self._graph, self._queued = self._graph, None, None
        if graph is not None:
            graph.close()

    def _do(self, what: str, method: str, *arguments: Any) -> None:
        # By name: an exception must not keep the context alive beyond ``close``.
        if not getattr(self._context, method)(*arguments):
            raise self._loaded.refused(what)


def choose_profile(profiles: Sequence[ShapeRange], size: Size, tokens: int | None) -> int:
    """Return the profile whose kernels were tuned nearest to ``size``, of those that take it.

    Nearest is by the ratio of pixel counts, as time goes by pixels; the first of equals. Raises
    UsageError that names what works where none takes it.
    """
    height, width = size
    fitting = [i for i, p in enumerate(profiles) if p.holds(size, tokens)]
    if not fitting:
        ranges = " or ".join(_spelt(profile, tokens) for profile in profiles)
        count = "" if tokens is None else f" with {tokens} active tokens"
        raise UsageError(
            f"this engine takes pictures from {ranges}, got {height} x {width}{count} (padded to "
            f"multiples of {GRID}); use another size, or export with other --min-shape, --max-shape"
        )
    return min(fitting, key=lambda i: abs(math.log(math.prod(profiles[i].opt) / height / width)))


def _spelt(profile: ShapeRange, tokens: int | None) -> str:
    (a, b), (c, d) = profile.min, profile.max
    text = f"{a} x {b} to {c} x {d}"
    if tokens is not None and profile.tokens:
        text += f" with {profile.tokens[0]} to {profile.tokens[2]} active tokens"
    return text


def _profiles(loaded: Loaded, takes_active: bool) -> list[ShapeRange]:
    """Read the ranges from the engine itself."""
    engine = loaded.engine
    found = []
    for index in range(engine.num_optimization_profiles):
        try:
            shapes = [tuple(dims)[2:] for dims in engine.get_tensor_profile_shape(INPUT, index)]
            low, best, high = ((int(height), int(width)) for height, width in shapes)
            tokens = None
            if takes_active:
                a, b, c = (int(dims[0]) for dims in engine.get_tensor_profile_shape(ACTIVE, index))
                tokens = (a, b, c)
        except (ValueError, IndexError) as error:
            raise ArtefactError(
                f"{loaded.path} is not the engine it says: expected pictures 1 3 H W; "
                "export it again"
            ) from error
        found.append(ShapeRange(low, best, high, tokens))
    return found
