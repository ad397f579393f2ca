"""The backend on onnxruntime, on the CPU or on CUDA. The only file that imports onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from ppsr.models.errors import NO_MEMORY, ArtefactError, BackendUnavailable, PpsrError

from .artefact import INPUT, Artefact
from .backend import Arrays, Closing, Device, require_options
from .files import require_readable
from .sidecar import ShapeRange

FATAL = 4
"""Severity below which onnxruntime keeps silent: what fails comes as an exception."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

ERRORS: tuple[type[Exception], ...] = (
    *(e for e in vars(native).values() if isinstance(e, type) and issubclass(e, Exception)),
    RuntimeError,
    ValueError,
    MemoryError,
)
"""What onnxruntime raises: its own exceptions have no common base."""

LEFT_OUT = (
    *("Level1_RuleBasedTransformer", "Level2_RuleBasedTransformer", "TransposeOptimizer"),
    *("CommonSubexpressionElimination", "ConstantSharing", "MatMulAddFusion", "ReshapeFusion"),
    *("AttentionFusion", "EmbedLayerNormFusion", "SkipLayerNormFusion", "BiasSkipLayerNormFusion"),
    *("LayerNormFusionL1", "LayerNormFusionL2", "SimplifiedLayerNormFusion", "BiasDropoutFusion"),
    *("GeluFusionL1", "GeluFusionL2", "FastGeluFusion", "QuickGeluFusion", "BiasGeluFusion"),
    *("MatmulTransposeFusion", "MatMulScaleFusion", "MatMulActivationFusion", "BiasSoftmaxFusion"),
    *("GemmActivationFusion", "GatherToSliceFusion", "GatherToSplitFusion"),
)
"""onnxruntime's optimisers that gain nothing on a CPU: in our graphs, surgery done, they find
little. Each looks through every body of every Scan, while a user waits."""

KEPT_UP_TO = 192 * 192
"""Pixels of a picture or tile up to which the CPU's arena keeps its memory for the next of its
size, as it takes time to ask the system for it. The blocks fit no other size, and what larger ones
leave is in pieces: the next run would take as much again."""

NO_CUDA = (
    "CUDA was asked for, but {reason}; install an NVIDIA driver and ppsr[gpu], or use --device cpu"
)


class OrtBackend(Closing):
    """A model file loaded by onnxruntime."""

    profiles: Sequence[ShapeRange] = ()

    def __init__(
        self,
        path: Path,
        device: Device = "auto",
        threads: int | None = None,
        *,
        optimise: bool = True,
    ) -> None:
        """Load ``path``. ``threads=None`` leaves the number to onnxruntime.

        ``optimise=False`` runs the graph as it stands in the file. "auto" takes CUDA where it
        really works, else the CPU. Raises UsageError for a wrong option, ArtefactError for a file
        that ppsr-export did not make, BackendUnavailable where CUDA is asked for and is not there.
        """
        require_options(device, threads)
        require_readable(path)
        ort.set_default_logger_severity(FATAL)
        session = open_session(path, providers_for(device), threads, optimise)
        active = CUDA in session.get_providers()
        if device == "cuda" and not active:
            raise BackendUnavailable(NO_CUDA.format(reason="its CUDA provider did not start"))
        self.device = "CUDA" if active else "CPU"
        self.artefact = Artefact.from_metadata(
            session.get_modelmeta().custom_metadata_map, str(path)
        )
        self.artefact.require_upscaling(str(path))
        self.wants_active = self.artefact.takes_active
        expected = sorted((*self.artefact.inputs, *self.artefact.outputs))
        found = sorted(tensor.name for tensor in (*session.get_inputs(), *session.get_outputs()))
        if found != expected:
            raise ArtefactError(
                f"{path} is not the model it says: expected the tensors {', '.join(expected)}, "
                f"got {', '.join(found)}"
            )
        self._session: Any | None = session
        self._size: tuple[int, ...] | None = None
        self._worker = ThreadPoolExecutor(1)

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once. Ctrl-C stops the model soon, not only when it is done.

        Raises PpsrError where the model fails or is closed.
        """
        if self._session is None:
            raise PpsrError("this model is closed")
        options = ort.RunOptions()
        options.log_severity_level = FATAL
        size = feed[INPUT].shape
        gives_back = self._size not in (None, size) or size[-2] * size[-1] > KEPT_UP_TO
        if self.device == "CPU" and gives_back:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._size = size
        try:
            names = self.artefact.outputs
            future = self._worker.submit(self._session.run, names, dict(feed), options)
            return dict(zip(names, future.result(), strict=True))
        except KeyboardInterrupt:
            options.terminate = True
            raise
        except ERRORS as error:
            raise PpsrError(f"the model failed on {self.device}: {one_line(error)}") from error

    def close(self) -> None:
        """Free the model, after what still runs. A second call does nothing."""
        self._worker.shutdown()
        self._session = None


def one_line(error: BaseException) -> str:
    """Shorten a message of onnxruntime to what a user can read."""
    text = str(error).strip() or type(error).__name__
    if re.search("alloc|out of memory|MemoryError", text):
        return NO_MEMORY
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text).splitlines()[0]
    return first if len(first) <= 200 else first[:197] + "..."


def providers_for(device: Device) -> list[Any]:
    """Return what ``open_session`` is to try for a device, in order.

    Raises BackendUnavailable where CUDA is asked for and this onnxruntime has none.
    """
    if device == "cpu":
        return [CPU]
    if CUDA not in ort.get_available_providers():
        if device == "cuda":
            raise BackendUnavailable(NO_CUDA.format(reason="this onnxruntime has no CUDA"))
        return [CPU]
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(None):  # It prints what it does not find.
            ort.preload_dlls()
    # TF32 keeps 10 bits of the mantissa: an fp32 file would not run in fp32.
    return [(CUDA, {"use_tf32": "0"}), CPU]


def open_session(
    model: Path | bytes,
    providers: Sequence[Any] = (CPU,),
    threads: int | None = None,
    optimise: bool = True,
) -> Any:
    """Load a model, from a file or from memory, on the first provider that takes it.

    Raises ArtefactError where onnxruntime does not load it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads or 0
    # Planning which tensor takes whose memory compares all with all: most of the time it takes to
    # load. The arena hands freed memory on anyway, so neither memory nor time of a run is lost.
    options.enable_mem_reuse = False
    # Idle threads of one session would slow down another, as when two models are compared.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # In the order of the file: the default order leaves side branches for last, and an FP16 check
    # with its thousands of peaks kept 15 times the memory alive (6.4 GB, 96 x 130).
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(
            source,
            options,
            providers=providers,
            enable_fallback=0,
            disabled_optimizers=LEFT_OUT if list(providers) == [CPU] else None,
        )
    except ERRORS as error:
        if len(providers) > 1:
            return open_session(model, [CPU], threads, optimise)
        name = "the graph" if isinstance(model, bytes) else model
        if isinstance(error, native.NotImplemented):
            raise ArtefactError(
                f"{name} needs a newer onnxruntime than {ort.__version__} ({one_line(error)}); "
                "update it, or give a file of ppsr-export --target onnx"
            ) from error
        raise ArtefactError(
            f"{name} is no ONNX file that onnxruntime can load ({one_line(error)}); "
            "give one that ppsr-export made"
        ) from error
