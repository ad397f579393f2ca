"""One way to open whatever can make pictures larger, by the name a user gives it."""

from __future__ import annotations

from typing import get_args

from ppsr.models.errors import UsageError

from .backend import Device
from .methods import BICUBIC, Options, open_request, parse
from .upscaler import Upscaler


def open_model(
    name: str, device: Device = "auto", threads: int | None = None, *, scale: int | None = None
) -> Upscaler:
    """Open a model file, or a checkpoint by torch.

    name: ``FILE.onnx``, ``FILE.plan``, ``FILE.pth``, ``FILE.safetensors``, ``default`` (the shipped
    weights, which need ``scale``); before a checkpoint ``NAME:``, the network it is run as; behind
    any ``@DEVICE``, which replaces ``device``. Raises UsageError (ArtefactError, CheckpointError)
    or BackendUnavailable.
    """
    name, own = _apart(name)
    device = own or device
    options = Options(scale=scale, device=device, threads=threads)
    request = parse(name, options)
    if name == BICUBIC:
        raise UsageError("bicubic is no network; name model files or checkpoints")
    if scale is None and not request.says_its_scale:
        raise UsageError(f"{name} has no scale of its own; give one with --scale")
    upscaler = Upscaler(open_request(request, scale, options))
    if scale not in (None, upscaler.scale):
        upscaler.close()
        raise UsageError(f"expected a model for x{scale}, got one for x{upscaler.scale}: {name}")
    return upscaler


def shown_name(name: str) -> str:
    """Return how a model is called in tables: without the folder of its file."""
    name, device = _apart(name)
    return parse(name, Options()).name() + (f"@{device}" if device else "")


def without_device(name: str) -> str:
    """Return what stands before ``@DEVICE``."""
    return _apart(name)[0]


def _apart(name: str) -> tuple[str, Device | None]:
    before, _, behind = name.rpartition("@")
    for device in get_args(Device):
        if before and behind == device:
            return before, device
    return name, None
