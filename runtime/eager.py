"""The backend on torch: the network itself, from a checkpoint. The only file here with torch."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from ppsr.models.checkpoint import read_checkpoint
from ppsr.models.config import ModelName, PurePass
from ppsr.models.errors import NO_MEMORY, BackendUnavailable, PpsrError, UsageError
from ppsr.models.factory import build
from ppsr.models.families import config_of
from ppsr.models.network import Network
from ppsr.models.registry import require_settings

from .artefact import ACTIVE, INPUT, Artefact
from .backend import Arrays, Closing, Device, require_options
from .sidecar import ShapeRange
from .versions import own_version


class EagerBackend(Closing):
    """The network as published, in FP32: what every exported model is compared with."""

    profiles: Sequence[ShapeRange] = ()

    def __init__(
        self,
        weights: str | Path,
        device: Device = "auto",
        threads: int | None = None,
        *,
        model: ModelName = "pp-atd-light",
        scale: int | None = None,
        pure_pass: PurePass | None = None,
        ratio: float | None = None,
    ) -> None:
        """Load a ``.pth`` or ``.safetensors`` file, or "default": the shipped weights.

        The file says its scale; "default" needs ``scale``. ``pure_pass`` replaces the paper's
        routing (for its ablations), ``ratio`` the default share of windows that attend.
        ``threads=None`` leaves the number to torch. The artefact claims the routed form, so the
        host computes the mask, and opset 0: there is no graph. Raises UsageError for a wrong
        option, CheckpointError for other weights or another scale, BackendUnavailable where CUDA is
        asked for and is not there.
        """
        require_options(device, threads)
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"a checkpoint runs by torch, not by {device}; use --device cpu")
        if scale is None and weights == "default":
            raise UsageError("the shipped weights exist by scale; say which")
        if weights != "default":
            scale = config_of(read_checkpoint(weights, scale, model)).scale
        assert scale is not None
        require_settings(model, scale, pure_pass, ratio)
        _keep_freed_memory()
        network = build(model, scale, weights, pure_pass=pure_pass, ratio=ratio)
        self.device = _place(network, device)
        self.artefact = Artefact(
            model=model,
            scale=scale,
            form="routed",
            precision="fp32",
            opset=0,
            weights_sha256=network.weights_sha256,
            version=own_version(),
            pure_pass=network.config.pure_pass,
            ratio=network.config.ratio,
            blocks=network.config.blocks,
        )
        self.wants_active = self.artefact.takes_active
        self._threads = threads
        self._network: Network | None = network

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run once. Raises PpsrError where the network fails or is closed."""
        if self._network is None:
            raise PpsrError("this model is closed")
        tensors = {name: torch.tensor(array) for name, array in feed.items()}
        try:
            with torch.inference_mode(), torch_settings(self._threads):
                image, active = (
                    None if name not in tensors else tensors[name].to(self.device.lower())
                    for name in (INPUT, ACTIVE)
                )
                assert image is not None
                found = self._network.outputs(image, active)
                names = self.artefact.outputs
                return {name: x.cpu().numpy() for name, x in zip(names, found, strict=True)}
        except (RuntimeError, MemoryError) as error:
            raise PpsrError(f"the network failed on {self.device}: {_one_line(error)}") from error

    def close(self) -> None:
        """Free the network. A second call does nothing."""
        self._network = None


def _keep_freed_memory() -> None:
    """Tell glibc not to give memory back after each tensor; elsewhere this does nothing.

    Tensors of attention are large: each would be mapped and cleared anew. `ppsr-eval` of Set5 x2
    takes 14 s instead of 27 s (two cores of an AMD EPYC, torch 2.13).
    """
    mmap_max, trim_threshold = -4, -1  # glibc's M_MMAP_MAX, M_TRIM_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def _place(network: Network, device: Device) -> str:
    """Move the network where it shall run and say where that is: "auto" takes CUDA if it works."""
    reason = "this torch finds none"
    if device != "cpu" and torch.cuda.is_available():
        try:
            network.to("cuda")
            return "CUDA"
        except (RuntimeError, AssertionError) as error:
            reason = f"it does not start ({_one_line(error)})"
    if device == "cuda":
        raise BackendUnavailable(
            f"CUDA was asked for, but {reason}; install an NVIDIA driver and a torch with CUDA, "
            "or use --device cpu"
        )
    network.to("cpu")
    return "CPU"


@contextmanager
def torch_settings(threads: int | None) -> Iterator[None]:
    """Set what torch keeps for the whole process, and set it back. None: threads as they are."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        # TF32 keeps 10 bits of the mantissa: torch takes it for convolutions unless told.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in text:
        return NO_MEMORY
    return text.splitlines()[0][:200]
