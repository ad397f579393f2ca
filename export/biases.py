"""Biases of linear layers as weights: what deployment wants, a product without an addition behind.

TensorRT's parser makes two layers of a bias, onnxruntime a pass over every token. What follows a
softmax needs neither: its rows sum to 1, so they pass a constant on. Nor does what follows a norm:
its channels sum to 0, so one of them is free to hold a constant. Exact, up to rounding.

onnxruntime writes a product's bias with one thread, before all work on it: where cores share no
cache, the others wait for what that one wrote.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ppsr.models.atd import Layer
from ppsr.models.attention import WindowAttention
from ppsr.models.camixer import CAMixer
from ppsr.models.category_attention import CategoryAttention


@torch.no_grad()
def pass_value_bias(layer: Layer) -> None:
    """p (v + b) -> p v, with rows of p that sum to 1: b goes to every token, by other ways.

    Pure tokens take the output of the window attention twice where it compensates for AC-MSA, and
    active ones both attentions once: half of b goes to each. Else all goes to the first.
    """
    values, window, category = layer.attn_atd.wv, layer.attn_win.proj, layer.attn_aca.proj
    if layer.attn_aca.compensation:
        window.bias.add_(values.bias / 2)
        category.bias.add_(values.bias / 2)
    else:
        window.bias.add_(values.bias)
    layer.attn_atd.wv = without_bias(values.weight)


@torch.no_grad()
def carry_norm_biases(layer: Layer) -> None:
    """W n + b -> W' n': what norms make sums to 0, so its last channel can hold 1, and W' b there.

    After ``fold_norms``.
    """
    for norm in (layer.norm1, layer.norm2):
        norm.weight[-1], norm.bias[-1] = 0, 1
    layer.wqkv = _carried(layer.wqkv)
    layer.attn_atd.wq = _carried(layer.attn_atd.wq)
    layer.convffn.fc1 = _carried(layer.convffn.fc1)


def _carried(linear: nn.Linear) -> nn.Linear:
    weight = linear.weight - linear.weight[:, -1:]
    weight[:, -1] = linear.bias
    return without_bias(weight)


@torch.no_grad()
def pass_projection_biases(layer: Layer) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Move the biases of both attentions' projections, b_win and b_aca, to the dictionary's values.

    Pure tokens take the output of the window attention twice: they want 2 b_win, active ones
    b_win + b_aca. Returns c_win and c_aca, each C, to add to the values of either attention: they
    make that difference, p_aca c_aca - p_win c_win = b_aca - b_win, with the least norm. Without
    compensation AC-MSA keeps its bias, and there is nothing to add.
    """
    dictionary, window, category = layer.attn_atd.wv, layer.attn_win, layer.attn_aca
    win, aca = window.proj, category.proj
    window.proj = without_bias(win.weight)
    if not category.compensation:
        dictionary.bias.add_(win.bias)
        return None, None
    category.proj = without_bias(aca.weight)
    both = torch.cat((-win.weight, aca.weight), 1).double()
    added = torch.linalg.pinv(both) @ (aca.bias - win.bias).double()
    c_win, c_aca = added.to(win.weight).chunk(2)
    dictionary.bias.add_(2 * (win.bias - win.weight @ c_win))
    return c_win, c_aca


@torch.no_grad()
def carry_projection_biases(layer: Layer) -> None:
    """W (p v) + b -> W' (p v'): a spare channel of v holds 1, so p v' holds 1, and W' b there.

    Heads that have no channel to spare (``widen_heads``) keep their biases.
    """
    for attention in (layer.attn_win, layer.attn_aca):
        _carry_projection_bias(layer.wqkv, attention)


def _carry_projection_bias(
    wqkv: nn.Linear, attention: WindowAttention | CAMixer | CategoryAttention
) -> None:
    proj = attention.proj
    own = proj.out_features // attention.heads
    if proj.in_features == proj.out_features:
        return
    wqkv.bias[2 * proj.in_features + own] = 1
    weight = proj.weight.clone()
    weight[:, own] = proj.bias
    attention.proj = without_bias(weight)


def without_bias(weight: Tensor) -> nn.Linear:
    """Make a linear layer of its weight."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight)
    linear.weight.copy_(weight)
    return linear
