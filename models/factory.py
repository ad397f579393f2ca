"""Building a network by name: its configuration, its weights, ready to run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch

from .atd import ATD
from .checkpoint import read_checkpoint, weights_digest
from .config import PurePass, config_for

SEED = 2510
"""Of the random weights that ``weights=None`` gives."""


def build(
    name: str,
    scale: int,
    weights: str | Path | None = "default",
    dtype: torch.dtype = torch.float32,
    *,
    pure_pass: PurePass | None = None,
) -> ATD:
    """Build "atd-light" or "pp-atd-light" in evaluation mode, on the CPU.

    The module maps images N 3 H W in [0, 1], any H and W from 8 up, to N 3 S*H S*W of the same
    dtype, not clamped. Both names share their weights.

    weights: "default" for the shipped ones, the path of a .pth or .safetensors file (what
    ``--weights FILE`` is to ppsr-export), or None for random ones, the same in every call; torch's
    global generator is left alone. ``pure_pass`` replaces the paper's routing. ``weights_sha256``
    of the module says which weights it holds, before the cast to ``dtype``.

    Raises ValueError for an unknown name, scale or dtype, or a ``pure_pass`` without routing;
    CheckpointError for weights that are not what they should be.
    """
    config = config_for(name, scale, pure_pass)
    if pure_pass is not None and config.pure_pass is None:
        raise ValueError(f"{name} has no routing: expected pure_pass=None, got {pure_pass}")
    if not dtype.is_floating_point:
        raise ValueError(f"expected a floating-point dtype, got {dtype}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        model = ATD(config)
    if weights is not None:
        if weights == "default":
            shipped = resources.files("ppsr.models") / f"pp_atd_light_x{scale}.safetensors"
            with resources.as_file(shipped) as path:
                state = read_checkpoint(path, scale)
        else:
            state = read_checkpoint(weights, scale)
        model.load_state_dict(state)
    model.weights_sha256 = weights_digest(model.state_dict())
    return model.to(dtype).eval()
