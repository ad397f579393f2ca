"""The network as CPUs like it: layers whose attention is in chunks, maps as rows of tokens.

The network is the same up to rounding. ``chunked`` has the attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppsr.models.atd import Layer, LayerGroup, Layout
from ppsr.models.attention import WindowAttention
from ppsr.models.dictionary import DictionaryAttention
from ppsr.models.feed_forward import ConvFeedForward
from ppsr.models.network import Network

from .biases import carry_norm_biases, pass_projection_biases, pass_value_bias
from .chunked import ChunkedCategoryAttention, ChunkedWindowAttention, padded
from .fold import drop_refinement_bias, fold_norms


class ChunkedLayer(Layer):
    """``Layer`` with both attentions in chunks of so many windows and groups."""

    attn_aca: ChunkedCategoryAttention

    def __init__(
        self,
        original: Layer,
        windows: int,
        groups: int,
        added: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    ) -> None:
        """added: to the values of either attention, by the channel of the tokens that holds 1."""
        nn.Module.__init__(self)
        self.shifted, self.refines = original.shifted, original.refines
        for name, module in original.named_children():
            setattr(self, name, module)
        if self.refines:
            self.sigma = original.sigma
        assert isinstance(original.attn_win, WindowAttention)
        self.attn_win = ChunkedWindowAttention(  # type: ignore[assignment]
            original.wqkv, original.attn_win, windows, self.shifted, added[0]
        )
        self.attn_aca = ChunkedCategoryAttention(original.wqkv, original.attn_aca, groups, added[1])
        del self.wqkv

    def attend(self, u: Tensor, similarity: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Both attentions in chunks; u: 1 T C -> x_win, x_aca."""
        x_win = self.attn_win(u, layout.shifted if self.shifted else layout.plain)
        places = padded(layout.groups.place[0], self.attn_aca.chunk * self.attn_aca.group)
        groups = layout.groups._replace(place=places.unsqueeze(0))
        return x_win, self.attn_aca(u, similarity, x_win, groups)


class TokenFeedForward(ConvFeedForward):
    """ConvFeedForward whose map is read as rows of tokens: channels last, which CPUs prefer."""

    def __init__(self, original: ConvFeedForward) -> None:
        nn.Module.__init__(self)
        self.fc1, self.dwconv, self.fc2 = original.fc1, original.dwconv, original.fc2

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: 1 T C -> 1 T C."""
        z = F.gelu(self.fc1(x))
        y = self.dwconv.depthwise_conv(z.reshape(1, *size, -1).permute(0, 3, 1, 2))
        out: Tensor = self.fc2(z + y.permute(0, 2, 3, 1).reshape(z.shape))
        return out


class UnitDictionaryAttention(DictionaryAttention):
    """``DictionaryAttention`` whose vectors of length 1 are one operator each."""

    @torch.no_grad()
    def __init__(self, original: DictionaryAttention) -> None:
        nn.Module.__init__(self)
        self.entries, self.wq, self.wk, self.wv = (
            *(original.entries, original.wq),
            *(original.wk, original.wv),
        )
        self.scale = nn.Parameter(original.sharpness())

    def forward(self, x: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        """x: B T C, dictionary: B K C -> output B T C, similarity B T K."""
        q, k = _of_length_1(self.wq(x)), _of_length_1(self.wk(dictionary))
        similarity = (q @ (k * self.scale.unsqueeze(-1)).transpose(-2, -1)).softmax(-1)
        return similarity @ self.wv(dictionary), similarity


def _of_length_1(x: Tensor) -> Tensor:
    if not torch.compiler.is_exporting():
        return F.normalize(x, dim=-1)
    unit: Tensor = torch.onnx.ops.symbolic(
        "LpNormalization", [x], {"axis": -1, "p": 2}, dtype=x.dtype, shape=x.shape
    )
    return unit


def fold_for_cpu(
    network: Network,
    windows: int = 1,
    groups: int = 1,
    *,
    carries: bool = False,
    feed_forward: Callable[[ConvFeedForward], ConvFeedForward] = TokenFeedForward,
) -> Network:
    """Return a copy of ``network`` in this form, with what ``fold`` rewrites and CPUs gain from.

    windows, groups: of a chunk; carries: the norms carry the biases of what reads them, the
    dictionary those of what stands beside it; feed_forward: rewrites that of each layer.
    """
    folded = copy.deepcopy(network)
    if folded.form is not None:
        folded.form = "sparse"
    for module in folded.modules():
        if not isinstance(module, LayerGroup):
            continue
        for place, layer in enumerate(module.layers):
            assert isinstance(layer, Layer)
            fold_norms(layer)
            drop_refinement_bias(layer)
            layer.attn_atd = UnitDictionaryAttention(layer.attn_atd)
            layer.convffn = feed_forward(layer.convffn)
            if carries:
                carry_norm_biases(layer)
                added = pass_projection_biases(layer)
                module.layers[place] = ChunkedLayer(layer, windows, groups, added)
            else:
                pass_value_bias(layer)
                module.layers[place] = ChunkedLayer(layer, windows, groups)
    return folded
