"""Whose weights are these? What is in a state dict decides; every refusal is a CheckpointError."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Final

import torch
from torch import Tensor

from .config import SCALES, Config, Configuration
from .errors import CheckpointError
from .registry import MODELS, Model

ADVICE: Final = "pass an ATD-light v1 checkpoint, such as 101_ATD_light_SRx2_scratch.pth"
_LAYER: Final = "layers.0.residual_group.layers.0."


def model_in(state: Mapping[str, Tensor]) -> Model:
    """Tell a network by the names of its weights; of two that share them, one.

    Raises CheckpointError for ATD v2.0 and everything that is none of ours.
    """
    found = None
    for model in MODELS.values():
        if any(re.match(model.signature, name) for name in state):
            found = model
    second = any("fc_td" in name.split(".") for name in state)
    if second or (found and "layers.0.norm.weight" in state):
        raise CheckpointError(
            f"expected ATD v1, got ATD v2.0, a different network (fc_td, layers.0.norm); {ADVICE}"
        )
    if not found:
        raise CheckpointError(
            f"expected ATD-light v1, got another network with {listed(state)}; {ADVICE}"
        )
    return found


def config_of(state: Mapping[str, Tensor]) -> Configuration:
    """Read the scale off a state dict -> its configuration, without Pure-Pass.

    Settings that leave no trace in the weights (``group``, ``ratio``, a threshold) have their
    defaults. What comes back loads strictly: raises CheckpointError for another network or size,
    and for missing, unexpected or misshapen tensors.
    """
    model = model_in(state)
    smallest = model.configure(min(SCALES), None, None)
    if isinstance(smallest, Config) and smallest.ratio is None:
        _require_light(state)
    rows, scales = _shape(state, f"{model.last}.weight", 4)[0], {3 * s**2: s for s in SCALES}
    if rows not in scales:
        known = ", ".join(f"{count} (x{scale})" for count, scale in scales.items())
        raise CheckpointError(f"expected {model.last}.weight with rows {known}, got {rows}")
    config = model.configure(scales[rows], None, None)
    _check_names_and_shapes(state, model, config)
    return config


def _require_light(state: Mapping[str, Tensor]) -> None:
    """Say which sizes of an ATD are not ATD-light's."""
    found, wanted = _deduce(state), Config()
    differences = [
        f"{field.name} {getattr(found, field.name)} (ATD-light: {getattr(wanted, field.name)})"
        for field in fields(Config)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]
    if differences:
        raise CheckpointError(f"expected ATD-light, got an ATD with {', '.join(differences)}")


def _deduce(state: Mapping[str, Tensor]) -> Config:
    """Everything but the scale; ``group`` leaves no trace in the weights."""
    layers: dict[str, set[str]] = {}
    for name in state:
        if match := re.match(r"layers\.(\d+)\.residual_group\.layers\.(\d+)\.", name):
            layers.setdefault(match[1], set()).add(match[2])
    positions, heads = _shape(state, f"{_LAYER}attn_win.relative_position_bias_table", 2)
    return Config(
        channels=_shape(state, "conv_first.weight", 4)[0],
        depths=tuple(len(layers[block]) for block in sorted(layers)),
        heads=heads,
        window=(math.isqrt(positions) + 1) // 2,
        dictionary=_shape(state, "layers.0.residual_group.td", 2)[0],
        reduced=_shape(state, f"{_LAYER}attn_atd.wq.weight", 2)[0],
        hidden=_shape(state, f"{_LAYER}convffn.fc1.weight", 2)[0],
        kernel=_shape(state, f"{_LAYER}convffn.dwconv.depthwise_conv.0.weight", 4)[3],
    )


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    shape = state[name].shape if name in state else None
    if shape is None or len(shape) != dimensions:
        found = "none" if shape is None else f"shape {tuple(shape)}"
        raise CheckpointError(f"expected {name} with {dimensions} dimensions, got {found}")
    return shape


def _check_names_and_shapes(
    state: Mapping[str, Tensor], model: Model, config: Configuration
) -> None:
    with torch.device("meta"):
        network = model.load()(config)
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    problems = []
    if missing := [name for name in wanted if name not in state]:
        problems.append(f"{len(missing)} missing ({listed(missing)})")
    if unexpected := [name for name in state if name not in wanted]:
        problems.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    problems += [
        f"{name} of shape {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ][:1]
    advice = ADVICE if model.shipped else "pass a file that ppsr-train has written"
    if problems:
        raise CheckpointError(
            f"expected the {len(wanted)} tensors of {model.title} x{config.scale}, "
            f"got {', '.join(problems)}; {advice}"
        )


def listed(names: Iterable[object], most: int = 3) -> str:
    """Spell the first few names; a hostile one can be long or hold line ends."""
    names = list(names)
    shown = [name if str(name).isprintable() else repr(name) for name in names[:most]]
    return ", ".join(str(name)[:80] for name in shown) + (", ..." if len(names) > most else "")
