"""What a run starts from: a checkpoint of its scale, of another scale, or bicubic interpolation."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from ppsr.models.checkpoint import read_checkpoint
from ppsr.models.errors import UsageError
from ppsr.models.factory import build
from ppsr.models.families import config_of
from ppsr.models.network import Network
from ppsr.models.registry import MODELS

from .options import TrainOptions


def starting_network(options: TrainOptions) -> Network:
    """Build the network and give it the weights that ``options.init`` names, in training mode.

    "bicubic" starts from nothing, see ``bicubic_start``. A checkpoint of another scale gives all
    but its last convolution, which is interpolated between the phases it has. "default" takes the
    shipped weights. Raises CheckpointError, or UsageError for a file that is not there.
    """
    if options.init == "bicubic":
        model = build(options.model, options.scale, weights=None, ratio=options.ratio)
        bicubic_start(model)
        return model.train()
    last = MODELS[options.model].last
    if options.init == "default":
        state = build(options.model, options.scale, ratio=options.ratio).state_dict()
    else:
        if not Path(options.init).exists():
            raise UsageError(
                f"expected default, bicubic or a checkpoint for --init, got {options.init}"
            )
        state = read_checkpoint(options.init, name=options.model)
    found = config_of(state).scale
    if found != options.scale:
        state = {**state, **rescale_last(state, found, options.scale, last)}
    model = build(options.model, options.scale, weights=None, ratio=options.ratio)
    model.load_state_dict(state)
    return model.train()


def rescale_last(state: dict[str, Tensor], old: int, new: int, last: str) -> dict[str, Tensor]:
    """Interpolate the last convolution, of that name: its rows are the phases of an output pixel.

    Phase p of S lies at (p + 0.5) / S - 0.5 of a low-resolution pixel. Straight lines through the
    outer phases of the old scale, in both directions, are read at the phases of the new one.
    """
    end = 0.5 - 0.5 / old  # the old outer phases lie at -end and end
    at = (torch.arange(new) + 0.5) / new - 0.5
    mix = torch.stack((0.5 - at / (2 * end), 0.5 + at / (2 * end)), 1)  # new 2
    changed = {}
    for name in (f"{last}.weight", f"{last}.bias"):
        rows = state[name].reshape(3, old, old, -1)[:, :: old - 1, :: old - 1]
        rows = torch.einsum("ia,jb,cabk->cijk", mix, mix, rows)
        changed[name] = rows.reshape(3 * new**2, *state[name].shape[1:]).contiguous()
    return changed


def bicubic_start(model: Network) -> None:
    """Make the network begin as bicubic interpolation; saves about the first thousand steps.

    27 channels of the first convolution copy the 3 x 3 neighbours in R, G and B; the last one puts
    them together with the bicubic weights of each phase; what the body adds starts near zero.
    """
    known, scale = MODELS[model.config.name], model.scale
    first, last = (model.get_submodule(name) for name in (known.first, known.last))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    quiet = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and any(fnmatchcase(name, glob) for glob in known.quiet)
    ]
    with torch.no_grad():
        for convolution in quiet:
            convolution.weight.mul_(0.01)
        for convolution in (*quiet, first, last):
            assert convolution.bias is not None
            convolution.bias.zero_()
        first.weight[:27] = torch.eye(27).reshape(27, 3, 3, 3) / known.gain
        last.weight.zero_()
        for phase_y in range(scale):
            for phase_x in range(scale):
                weights_y, weights_x = _phase(phase_y, scale), _phase(phase_x, scale)
                for y, weight_y in weights_y.items():
                    for x, weight_x in weights_x.items():
                        # A shift by y is a tap of the last convolution and a copy of the first.
                        copy_y, copy_x = max(-1, min(1, y)), max(-1, min(1, x))
                        tap_y, tap_x = y - copy_y + 1, x - copy_x + 1
                        for colour in range(3):
                            row = (colour * scale + phase_y) * scale + phase_x
                            channel = (colour * 3 + copy_y + 1) * 3 + copy_x + 1
                            last.weight[row, channel, tap_y, tap_x] = weight_y * weight_x


def _phase(phase: int, scale: int) -> dict[int, float]:
    """Bicubic weights (a = -0.5) of one phase, by offset in low-resolution pixels, -2 to 2."""
    at = (phase + 0.5) / scale - 0.5
    weights = {}
    for offset in range(-2, 3):
        d = abs(at - offset)
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        weights[offset] = near if d <= 1 else far if d < 2 else 0.0
    return weights
