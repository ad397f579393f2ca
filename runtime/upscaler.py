"""From a picture to a larger one: padding, routing, the model, cropping, rounding."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import BackendUnavailable, PictureError, PpsrError, UsageError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, pure_mask

from .artefact import ACTIVE, INPUT, OUTPUT, Artefact
from .backend import ROUTING, Backend, Closing, Device, require_options
from .memory import require_memory

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
ENGINES = (".plan", ".engine", ".trt")


@dataclass(frozen=True)
class Result:
    """A larger picture and what it took."""

    rgb: npt.NDArray[np.uint8]
    """S*H S*W 3."""
    pure: float | None
    """Share of the pixels that skip category attention; None for a model without Pure-Pass."""
    milliseconds: float
    """The model and routing, wherever it is done; no padding, conversion or rounding.

    On a device also the picture's way there and back.
    """
    routing_milliseconds: float | None
    """The part of ``milliseconds`` spent on routing; None, unknown, where the graph routes itself.

    0 for a model without Pure-Pass. On a device: its own time, without the picture's way there.
    """


class Upscaler(Closing):
    """A loaded model that makes pictures ``scale`` times larger. A context manager."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @classmethod
    def open(
        cls,
        path: str | Path,
        device: Device = "auto",
        threads: int | None = None,
        trust: bool = False,
    ) -> Upscaler:
        """Load a model file that ppsr-export made.

        ``trust`` runs a plan without its description: a plan is code, so only one you built.
        Raises UsageError (ArtefactError for a bad file) or BackendUnavailable.
        """
        return cls(open_backend(Path(path), device, threads, trust))

    @property
    def artefact(self) -> Artefact:
        """What the model file says of itself."""
        return self._backend.artefact

    @property
    def scale(self) -> int:
        """How many times larger the output is, at each side."""
        return self.artefact.scale

    @property
    def device(self) -> str:
        """Where it runs: "CPU" or "CUDA"."""
        return self._backend.device

    def close(self) -> None:
        """Free the model."""
        self._backend.close()

    def __call__(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the picture ``scale`` times larger. uint8 H W 3, any size -> uint8 S*H S*W 3.

        Raises PictureError for any other array, PpsrError where the model fails.
        """
        return self.upscale(rgb).rgb

    def upscale(self, rgb: npt.NDArray[np.uint8]) -> Result:
        """Do what calling does, and tell how it went."""
        _require_picture(rgb)
        height, width = rgb.shape[:2]
        padded = pad_to_grid(rgb)
        if self.device == "CPU":
            require_memory(height, width, padded.shape[0] * padded.shape[1])
        feed: dict[str, npt.NDArray[Any]] = {
            INPUT: np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32) / 255
        }
        mask, settings = None, self.artefact.pure_pass
        routing = None if settings else 0.0
        start = time.perf_counter()
        if self._backend.wants_active and settings:
            mask = settings.mask(padded)
            feed[ACTIVE] = active_tokens(mask)
            routing = (time.perf_counter() - start) * 1000
        outputs = self._backend.run(feed)
        stop = time.perf_counter()
        if ROUTING in outputs:
            routing = float(outputs[ROUTING])
            mask = pure_mask(outputs[ACTIVE], padded.shape[:2])
        elif mask is None and settings:
            mask = settings.mask(padded)
        return Result(
            rgb=_to_picture(outputs[OUTPUT], padded.shape, rgb.shape, self.scale),
            pure=None if mask is None else float(mask[:height, :width].mean()),
            milliseconds=(stop - start) * 1000,
            routing_milliseconds=routing,
        )


def open_backend(
    path: Path, device: Device = "auto", threads: int | None = None, trust: bool = False
) -> Backend:
    """Load a model file with the backend its suffix asks for. Raises as ``Upscaler.open`` does."""
    suffix = path.suffix.lower()
    if suffix in CHECKPOINTS:
        raise UsageError(
            f"{path} is a checkpoint, not a model file; export it first with ppsr-export"
        )
    if suffix in ENGINES:
        require_options(device, threads)
        if device == "cpu":
            raise UsageError(f"{path} is a TensorRT engine; on the CPU run the .onnx file instead")
        try:
            from .trt import TrtBackend
        except ImportError as error:
            raise BackendUnavailable(
                f"{path} needs cuda-bindings and TensorRT: pip install 'ppsr[rtx]' "
                "(or 'ppsr[tensorrt]')"
            ) from error
        return TrtBackend(path, trust=trust)
    if suffix != ".onnx":
        raise UsageError(f"expected a model file that ends in .onnx or .plan, got {path}")
    try:
        from .ort import OrtBackend
    except ImportError as error:
        raise BackendUnavailable(
            "onnxruntime is not installed: pip install 'ppsr[cpu]' (or 'ppsr[gpu]' for CUDA)"
        ) from error
    return OrtBackend(path, device, threads)


def _require_picture(rgb: npt.NDArray[Any]) -> None:
    if not isinstance(rgb, np.ndarray):
        raise PictureError(f"expected a picture uint8 H W 3, got {type(rgb).__name__}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise PictureError(f"expected a picture uint8 H W 3, got {rgb.dtype} {rgb.shape}")


def _to_picture(
    output: npt.NDArray[Any], padded: tuple[int, ...], size: tuple[int, ...], scale: int
) -> npt.NDArray[np.uint8]:
    """Crop, clamp and round half to even. float 1 3 S*H' S*W' -> uint8 S*H S*W 3."""
    expected = (1, 3, padded[0] * scale, padded[1] * scale)
    if output.shape != expected:
        raise PpsrError(f"the model returned {output.shape}, expected {expected}; export it again")
    cropped = output[0, :, : size[0] * scale, : size[1] * scale].astype(np.float32)
    if not np.isfinite(cropped).all():
        raise PpsrError("the model returned values that are no numbers; export it again as fp32")
    levels = np.rint(cropped.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
