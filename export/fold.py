"""Exact rewrites of the network before it is traced: what deployment wants, without a change of it.

Each takes a network apart and returns nothing; ``fold`` works on a copy. Outputs differ from the
published network's by rounding alone, and every export proves it (``verify``).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppsr.models.atd import Layer, LayerGroup
from ppsr.models.attention import WindowAttention
from ppsr.models.feed_forward import ConvFeedForward
from ppsr.models.network import Network

from .biases import carry_projection_biases, pass_value_bias
from .cosine import NormedDictionaryAttention

HEAD_WIDTH = 16
"""Fused attention of TensorRT takes heads of 16, 24, 32 ... channels; ATD-light's have 12."""


def fold(network: Network) -> Network:
    """Return a copy of ``network`` with every rewrite done that it has the layers for."""
    folded = copy.deepcopy(network)
    groups = [module.layers for module in folded.modules() if isinstance(module, LayerGroup)]
    for place, layer in (pair for group in groups for pair in enumerate(group)):
        assert isinstance(layer, Layer)
        fold_norms(layer)
        fold_query_scale(layer)
        if isinstance(layer.attn_win, WindowAttention):
            widen_heads(layer)  # CAMixer looks at all values at once.
        drop_refinement_bias(layer)
        layer.attn_atd = NormedDictionaryAttention(layer.attn_atd, place == 0)
        pass_value_bias(layer)
        carry_projection_biases(layer)
        layer.convffn = PointwiseFeedForward(layer.convffn)
    return folded


@torch.no_grad()
def fold_norms(layer: Layer) -> None:
    """W(g * n(x) + b) + c -> (W g) n(x) + (W b + c): the affine parts of norm1 and norm2 go."""
    _fold_norm(layer.norm1, [layer.wqkv, layer.attn_atd.wq])
    _fold_norm(layer.norm2, [layer.convffn.fc1])


@torch.no_grad()
def fold_query_scale(layer: Layer) -> None:
    """(s q) k + bias -> q' k + bias: q' = s q comes out of the weights.

    Category attention has the same queries; its own factor is divided by s.
    """
    window = layer.attn_win
    queries = layer.wqkv.out_features // 3
    layer.wqkv.weight[:queries] *= window.scale
    layer.wqkv.bias[:queries] *= window.scale
    layer.attn_aca.softmax.query_scale = window.scale
    window.scale = 1.0


@torch.no_grad()
def drop_refinement_bias(layer: Layer) -> None:
    """softmax(n + b) -> softmax(n): norm3's bias is the same for all tokens of an entry.

    The engine has one constant of zeros for all layers then.
    """
    if layer.refines:
        layer.norm3.get_parameter("bias").zero_()


@torch.no_grad()
def widen_heads(layer: Layer, width: int = HEAD_WIDTH) -> None:
    """Zeros behind the channels of each head of q, k, v, and zero columns of what takes v up.

    Zero channels add nothing to q.k. The codes of masks move into them (``with_codes``), so that no
    head is wider. Raises ValueError where heads are wider already.
    """
    attentions = (layer.attn_win, layer.attn_aca)
    depth = layer.attn_win.depth
    if width < depth:
        raise ValueError(f"expected a width of at least {depth}, got {width}")
    heads = layer.attn_win.heads
    layer.wqkv = _linear(
        _spread(layer.wqkv.weight, 0, 3 * heads, width),
        _spread(layer.wqkv.bias, 0, 3 * heads, width),
    )
    for attention in attentions:
        proj = attention.proj
        attention.proj = _linear(_spread(proj.weight, 1, heads, width), proj.bias)


class PointwiseFeedForward(ConvFeedForward):
    """ConvFeedForward with its linear layers as 1 x 1 convolutions: one map from end to end.

    An engine has a convolution with its bias as one layer where a linear one is four.
    """

    def __init__(self, original: ConvFeedForward) -> None:
        nn.Module.__init__(self)
        self.fc1, self.dwconv, self.fc2 = original.fc1, original.dwconv, original.fc2

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: 1 T C -> 1 T C."""
        image = x.transpose(1, 2).reshape(1, -1, *size)
        z = F.gelu(_pointwise(self.fc1, image))
        out = _pointwise(self.fc2, z + self.dwconv.depthwise_conv(z))
        return out.flatten(2).transpose(1, 2)


def _pointwise(linear: nn.Linear, image: Tensor) -> Tensor:
    return F.conv2d(image, linear.weight[..., None, None], linear.bias)


def _fold_norm(norm: nn.LayerNorm, takers: list[nn.Linear]) -> None:
    for linear in takers:
        linear.bias.add_(linear.weight @ norm.bias)
        linear.weight.mul_(norm.weight)
    norm.weight.fill_(1)
    norm.bias.zero_()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear


def _spread(tensor: Tensor, axis: int, heads: int, width: int) -> Tensor:
    """Append zeros to each head along ``axis``."""
    split = tensor.unflatten(axis, (heads, -1))  # type: ignore[no-untyped-call]
    zeros = list(split.shape)
    zeros[axis + 1] = width - split.shape[axis + 1]
    return torch.cat((split, split.new_zeros(zeros)), axis + 1).flatten(axis, axis + 1)
