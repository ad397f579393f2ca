"""A loaded model that makes pictures larger, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppsr.models.errors import BackendUnavailable, UsageError

from .artefact import Artefact
from .backend import Backend, Closing, Device, require_options
from .pixels import Array, ArrayPixels, Pixels
from .stream import Stream
from .tiles import Tiling

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
ENGINES = (".plan", ".engine", ".trt")


@dataclass(frozen=True)
class Result:
    """A larger picture and what it took."""

    pixels: Array
    """S*H S*W C, or S*H S*W, as the picture was."""
    pure: float | None
    """Share of the pixels that skip category attention; None for a model without Pure-Pass."""
    milliseconds: float
    """The model and routing, wherever it is done; no padding, conversion, blending or rounding.

    On a device also the picture's way there and back.
    """
    routing_milliseconds: float | None
    """The part of ``milliseconds`` spent on routing; None, unknown, where the graph routes itself.

    0 for a model without Pure-Pass. On a device: its own time, without the picture's way there.
    """
    kept: tuple[float, ...] | None = None
    """Share of the pixels that each block attends to; None for a network whose tokens stay."""
    tiles: int = 1
    """1: as a whole."""


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
    def backend(self) -> Backend:
        """What computes, to be told by the tensor what to do; closed with this."""
        return self._backend

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
        """Where it runs: "CPU", "CPU, OpenVINO", "CPU, OpenVINO in BF16" or "CUDA"."""
        return self._backend.device

    def close(self) -> None:
        """Free the model."""
        self._backend.close()

    def __call__(self, picture: Array) -> Array:
        """Return the picture ``scale`` times larger: ``upscale(picture).pixels``."""
        return self.upscale(picture).pixels

    def upscale(
        self,
        picture: Array,
        dtype: np.dtype[Any] | None = None,
        tiling: Tiling = Tiling(),  # noqa: B008 (frozen)
    ) -> Result:
        """Make a picture larger, and tell how it went.

        picture: uint8, uint16 or float32; H W (grey) or H W C with C of 1 (grey), 2 (grey and
        alpha), 3 (RGB) or 4 (RGB and alpha); any size from 1 x 1. Integers use their whole range.
        Floats are in [0, 1]; where they go beyond, the network sees them fitted into it. The result
        has the same type, or ``dtype``, computed without another in between.

        Raises PictureError for any other array, PpsrError where the model fails or memory does not
        suffice.
        """
        flat = isinstance(picture, np.ndarray) and picture.ndim == 2
        stream = self.stream(ArrayPixels(picture[..., None] if flat else picture), dtype, tiling)
        pixels = np.empty(stream.shape, stream.dtype)
        top = 0
        for band in stream:
            pixels[top : top + len(band)] = band
            top += len(band)
        return Result(
            pixels=pixels[..., 0] if flat else pixels,
            pure=stream.pure,
            milliseconds=stream.milliseconds,
            routing_milliseconds=stream.routing_milliseconds,
            kept=stream.kept,
            tiles=stream.tiles,
        )

    def stream(
        self,
        picture: Pixels,
        dtype: np.dtype[Any] | None = None,
        tiling: Tiling = Tiling(),  # noqa: B008 (frozen)
    ) -> Stream:
        """Make a picture larger by rows, so that neither it nor the result need be in memory.

        Raises as ``upscale`` does, some of it while the rows are asked for.
        """
        return Stream(self._backend, picture, dtype, tiling)


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
        if device not in ("auto", "cuda"):
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
    if device == "openvino" or device == "openvino-bf16":
        try:
            from .ov import OvBackend
        except ImportError as error:
            raise BackendUnavailable(
                "OpenVINO is not installed: pip install 'ppsr[openvino]', or use --device cpu"
            ) from error
        return OvBackend(path, device, threads)
    try:
        from .ort import OrtBackend
    except ImportError as error:
        raise BackendUnavailable(
            "onnxruntime is not installed: pip install 'ppsr[cpu]' (or 'ppsr[gpu]' for CUDA)"
        ) from error
    return OrtBackend(path, device, threads)
