"""The backend on OpenVINO, on the CPU. The only file that imports openvino."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import openvino

from ppsr.models.errors import NO_MEMORY, ArtefactError, BackendUnavailable, PpsrError

from .artefact import Artefact
from .backend import Arrays, Closing, Device, require_options
from .files import require_readable
from .sidecar import ShapeRange

PRECISIONS: Final = {"openvino": "f32", "openvino-bf16": "bf16"}
"""What products are computed in, by device. BF16 needs a CPU that has it to be faster."""

_POLL = 100
"""Milliseconds between two looks for Ctrl-C."""


class OvBackend(Closing):
    """A model file loaded by OpenVINO."""

    profiles: Sequence[ShapeRange] = ()

    def __init__(self, path: Path, device: Device, threads: int | None = None) -> None:
        """Load ``path``. ``threads=None`` leaves the number to OpenVINO.

        Raises UsageError for a wrong option, ArtefactError for a file that ppsr-export did not
        make or made for onnxruntime (OpenVINO knows no Scan that reads outer tensors),
        BackendUnavailable where BF16 is asked for and the CPU has none.
        """
        require_options(device, threads)
        require_readable(path)
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[device],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.read_model(path.read_bytes(), b"")
            self.artefact = Artefact.from_metadata(_metadata(model), str(path))
            self.artefact.require_upscaling(str(path))
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ArtefactError(
                f"{path} is no ONNX file that OpenVINO can load ({_one_line(error)}); give one "
                "that ppsr-export made, not for onnxruntime"
            ) from error
        self.wants_active = self.artefact.takes_active
        expected = sorted((*self.artefact.inputs, *self.artefact.outputs))
        found = sorted(port.get_any_name() for port in (*model.inputs, *model.outputs))
        if found != expected:
            raise ArtefactError(
                f"{path} is not the model it says: expected the tensors {', '.join(expected)}, "
                f"got {', '.join(found)}"
            )
        if device == "openvino-bf16" and "BF16" not in _able(core):
            raise BackendUnavailable(
                "BF16 was asked for, and this CPU has none; use --device openvino"
            )
        self.device = "CPU, OpenVINO" + (" in BF16" if device == "openvino-bf16" else "")
        self._request: Any | None = compiled.create_infer_request()

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once. Ctrl-C stops the model soon, not only when it is done.

        Raises PpsrError where the model fails or is closed.
        """
        request = self._request
        if request is None:
            raise PpsrError("this model is closed")
        try:
            request.start_async(dict(feed), share_inputs=True)
            while not request.wait_for(_POLL):
                pass
            names = self.artefact.outputs
            return {name: request.get_tensor(name).data.copy() for name in names}
        except KeyboardInterrupt:
            request.cancel()
            raise
        except (RuntimeError, MemoryError) as error:
            raise PpsrError(f"the model failed on {self.device}: {_one_line(error)}") from error

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        self._request = None


def _able(core: Any) -> list[str]:
    """What the CPU computes in: "FP32", "BF16" and others."""
    able: list[str] = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return able


def _metadata(model: Any) -> dict[str, str]:
    """The ``metadata_props`` of the file; empty for one without."""
    framework = dict(model.get_rt_info()).get("framework", {})
    return {key: str(entry.value) for key, entry in dict(framework).items()}


def _one_line(error: BaseException) -> str:
    """Shorten a message of OpenVINO to what a user can read: its last line that says something."""
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return NO_MEMORY
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last if len(last) <= 200 else last[:197] + "..."
