"""Mixed precision: bfloat16 where the work is, float32 where a picture begins and ends."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ppsr.models.network import Network
from ppsr.models.registry import MODELS

from .options import Precision

_library: Any = None  # torch does not type its library


def prepare(
    model: Network, precision: Precision, device: torch.device
) -> AbstractContextManager[object]:
    """Set the network up for ``precision`` -> the context its forward pass runs in.

    "bf16": autocast; the layers next to the picture (the first and the last convolution) and with
    them the residual stream stay float32. On a CPU dilated depthwise convolutions do too: for the
    gradient of their weights torch 2.13 returns uninitialised memory where pictures are channels
    last. "tf32": matrix products of CUDA are rounded to 10 bits. "fp32": nothing is rounded.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if precision != "bf16":
        return nullcontext()
    if device.type == "cpu":
        _keep_softmax_in_bfloat16()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1 and module.dilation != (1, 1):
                _keep_float32(module, device.type)
    for name in MODELS[model.config.name].ends:
        _keep_float32(model.get_submodule(name), device.type)
    return torch.autocast(device.type, torch.bfloat16)


def _keep_float32(module: nn.Module, device: str) -> None:
    forward = module.forward

    @functools.wraps(forward)
    def outside(x: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            out: Tensor = forward(x.float())
            return out

    module.forward = outside


def _keep_softmax_in_bfloat16() -> None:
    """Take softmax off the list of what CPU autocast computes in float32, for this process.

    The attention matrices are the bulk of all bytes, and the products before and after them are
    bfloat16 anyway. With it a step of 8 patches of 32 x 32 takes about 1.1 s (two cores of an AMD
    EPYC, torch 2.13; benchmarks/results/training/x2_1.csv).
    """
    global _library
    if _library is None:
        _library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        _library.impl("softmax.int", torch.library.fallthrough_kernel, "AutocastCPU")
