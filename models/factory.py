"""Building a network by name: its configuration, its weights, ready to run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch

from .checkpoint import read_checkpoint, weights_digest
from .config import PurePass
from .errors import CheckpointError
from .network import Network
from .registry import config_for, model_of

SEED = 2510
"""Of the random weights that ``weights=None`` gives."""


def build(
    name: str,
    scale: int,
    weights: str | Path | None = "default",
    dtype: torch.dtype = torch.float32,
    *,
    pure_pass: PurePass | None = None,
    ratio: float | None = None,
) -> Network:
    """Build a network of ``registry.MODELS`` in evaluation mode, on the CPU.

    The module maps images N 3 H W in [0, 1], any H and W from 8 up, to N 3 S*H S*W of the same
    dtype, not clamped. "atd-light" and "pp-atd-light" share their weights.

    weights: "default" for the shipped ones, the path of a .pth or .safetensors file (what
    ``--weights FILE`` is to ppsr-export), or None for random ones, the same in every call; torch's
    global generator is left alone. ``pure_pass`` replaces the paper's routing, ``ratio`` the share
    of windows that attend ("camixer-atd-light", 0.5). ``weights_sha256`` of the module says which
    weights it holds, before the cast to ``dtype``.

    Raises ValueError for an unknown name, scale or dtype, or a setting that the network does not
    have; CheckpointError for weights that are not what they should be, or not shipped.
    """
    model, config = model_of(name), config_for(name, scale, pure_pass, ratio)
    if not dtype.is_floating_point:
        raise ValueError(f"expected a floating-point dtype, got {dtype}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        network = model.load()(config)
    if weights == "default":
        if model.shipped is None:
            raise CheckpointError(
                f"no weights of {name} are shipped; train some with ppsr-train --model {name}, "
                "or name a file with --weights"
            )
        shipped = resources.files("ppsr.models") / model.shipped.format(scale=scale)
        with resources.as_file(shipped) as path:
            network.load_state_dict(read_checkpoint(path, scale, name))
    elif weights is not None:
        network.load_state_dict(read_checkpoint(weights, scale, name))
    network.weights_sha256 = weights_digest(network.state_dict())
    return network.to(dtype).eval()
