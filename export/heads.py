"""Heads as wide as engines want them: zeros beside the 12 channels that ATD-light has.

Fused attention of TensorRT takes heads of 16, 24, 32 ... channels. Zero channels of q and k add
nothing to q.k, zero channels of v are taken up by zero columns of the projection: the network
computes the same. The codes of masks move into the zeros (``with_codes``), so no head is wider.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ppsr.models.atd import ATD, Layer

WIDTH = 16


def widen_heads(network: ATD, width: int = WIDTH) -> ATD:
    """Return a copy whose heads have ``width`` channels, the added ones zero. Weights are shared
    but for wqkv and the two projections.

    Raises ValueError where heads are wider already.
    """
    wide = copy.deepcopy(network)
    heads = network.config.heads
    depth = network.config.channels // heads
    if width < depth:
        raise ValueError(f"expected a width of at least {depth}, got {width}")
    for layer in (module for module in wide.modules() if isinstance(module, Layer)):
        layer.wqkv = _widened(layer.wqkv, 0, 3 * heads, width)
        for attention in (layer.attn_win, layer.attn_aca):
            attention.proj = _widened(attention.proj, 1, heads, width)
    return wide


def _widened(linear: nn.Linear, axis: int, heads: int, width: int) -> nn.Linear:
    """Append zeros to each head along an axis of the weight: 0 = outputs, 1 = inputs."""
    with torch.no_grad():
        weight = _spread(linear.weight, axis, heads, width)
        bias = linear.bias if axis else _spread(linear.bias, 0, heads, width)
        wide = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        wide.weight.copy_(weight)
        wide.bias.copy_(bias)
    return wide


def _spread(tensor: Tensor, axis: int, heads: int, width: int) -> Tensor:
    split = tensor.unflatten(axis, (heads, -1))
    zeros = list(split.shape)
    zeros[axis + 1] = width - split.shape[axis + 1]
    return torch.cat((split, split.new_zeros(zeros)), axis + 1).flatten(axis, axis + 1)
