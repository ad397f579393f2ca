"""The network as CPUs like it: attention from tokens to projected tokens, a few windows at a time.

The logits of a picture do not fit into a CPU's caches: each pass over them (product, bias, softmax,
product) goes to memory and back. Here one chunk goes all the way, and its logits stay in the cache;
a picture never holds more of them. The network is the same up to rounding.

- Tokens are gathered before q, k and v are made of them: 48 channels instead of 192.
- Each head has its own weights, so q, k, v come out as attention wants them, and nothing is
  transposed.
- A softmax over keys does not see what is the same for all keys: the keys' bias is dropped. Its
  rows sum to 1: the values' bias goes into the projection's.

The tracer writes one operator for each attention; ``attention_nodes`` spells it for each runtime.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppsr.models.atd import ATD, Layer, LayerGroup, Layout
from ppsr.models.attention import WindowAttention, Windows
from ppsr.models.category import Groups
from ppsr.models.category_attention import CategoryAttention
from ppsr.models.dictionary import DictionaryAttention
from ppsr.models.feed_forward import ConvFeedForward

from .biases import pass_value_bias
from .fold import drop_refinement_bias, fold_norms

DOMAIN, OPERATOR = "ppsr", "ChunkedAttention"
"""What the tracer writes for ``ChunkedAttention``."""
WIDTH = 16
"""Channels of a head: 12, and 4 for the codes of masks."""


class ChunkedAttention(nn.Module):
    """softmax(q k^T + bias) v, projected, of tokens that are gathered and cut into chunks."""

    @torch.no_grad()
    def __init__(
        self, wqkv: nn.Linear, proj: nn.Linear, heads: int, factor: float | Tensor
    ) -> None:
        """``factor``: on the queries."""
        super().__init__()
        channels = wqkv.in_features
        self.heads, self.depth = heads, channels // heads
        depth = self.depth
        spare = (0, WIDTH - depth)
        q, k, v = wqkv.weight.reshape(3, heads, depth, channels).transpose(2, 3)  # heads C depth
        q_bias, _, v_bias = wqkv.bias.reshape(3, heads, depth)
        self.q = nn.Parameter(F.pad(q * factor, spare))
        self.k = nn.Parameter(F.pad(k, spare))
        self.v = nn.Parameter(F.pad(v, spare))
        self.bias = nn.Parameter(F.pad(q_bias * factor, spare).unsqueeze(1))
        self.proj = nn.Linear(heads * WIDTH, channels).to(proj.weight)
        columns = proj.weight.reshape(channels, heads, depth)
        self.proj.weight.copy_(F.pad(columns, spare).flatten(1))
        self.proj.bias.copy_(proj.bias + proj.weight @ v_bias.flatten())

    def forward(
        self,
        tokens: Tensor,
        bias: Tensor | None = None,
        query: Tensor | None = None,
        key: Tensor | None = None,
        shared: Tensor | None = None,
    ) -> Tensor:
        """tokens: n c 1 L C; bias: heads L L; codes: n c 1 L 16 -> n*c*L C.

        shared: 1 1 L 16, codes of the keys of every window or group.
        """
        if not torch.compiler.is_exporting():
            return self.attend(tokens.flatten(0, 1), bias, _flat(query), _flat(key), shared)
        count, chunk, _, length, channels = tokens.shape
        weights = (self.q, self.k, self.v, self.bias, self.proj.weight, self.proj.bias)
        out: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            [tokens, *weights, bias, query, key, shared],
            dtype=tokens.dtype,
            shape=(count, chunk * length, channels),
            version=1,
        )
        return out.flatten(0, 1)

    def widened(self, codes: Tensor) -> Tensor:
        """Put codes behind zeros: B 1 L c -> B 1 L 16."""
        return F.pad(codes, (self.depth, WIDTH - self.depth - codes.shape[-1]))

    def in_chunks(self, codes: Tensor, chunk: int) -> Tensor:
        """Put codes behind zeros, and cut them. B 1 L c -> n chunk 1 L 16."""
        wide = self.widened(codes)
        every = padded(torch.arange(codes.shape[0], device=codes.device), chunk)
        cut: Tensor = wide.index_select(0, every).unflatten(0, (-1, chunk))  # type: ignore[no-untyped-call]
        return cut

    def attend(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        query: Tensor | None = None,
        key: Tensor | None = None,
        shared: Tensor | None = None,
    ) -> Tensor:
        """Windows or groups: c 1 L C, codes c 1 L 16 -> c*L C. As ``attention_nodes`` spells it."""
        q, k, v = x @ self.q + self.bias, x @ self.k, x @ self.v  # c heads L 16
        q = q if query is None else q + query
        for code in (key, shared):
            k = k if code is None else k + code
        logits = q @ k.transpose(-2, -1)
        y = (logits if bias is None else logits + bias).softmax(-1) @ v
        out: Tensor = self.proj(y.transpose(1, 2).reshape(-1, self.heads * WIDTH))
        return out


class ChunkedWindowAttention(nn.Module):
    """``WindowAttention`` on normed tokens instead of their q, k, v."""

    def __init__(self, wqkv: nn.Linear, original: WindowAttention, chunk: int) -> None:
        super().__init__()
        self.original, self.chunk = original, chunk
        self.attention = ChunkedAttention(wqkv, original.proj, original.heads, original.scale)

    def forward(self, u: Tensor, windows: Windows) -> Tensor:
        """u: 1 T C -> 1 T C."""
        length = self.original.window**2
        order = padded(windows.order, self.chunk * length)
        tokens = u.index_select(1, order).reshape(-1, self.chunk, 1, length, u.shape[-1])
        query, key = (
            None if code is None else self.attention.in_chunks(code, self.chunk)
            for code in (windows.query, windows.key)
        )
        bias = self.original.position_bias(windows.pairs).squeeze(0)
        y: Tensor = self.attention(tokens, bias, query, key)
        return y.index_select(0, windows.rank).unsqueeze(0)


class ChunkedCategoryAttention(CategoryAttention):
    """``CategoryAttention`` on normed tokens instead of their q, k, v."""

    @torch.no_grad()
    def __init__(self, wqkv: nn.Linear, original: CategoryAttention, chunk: int) -> None:
        nn.Module.__init__(self)
        self.heads, self.group, self.chunk = original.heads, original.group, chunk
        self.categories, self.compensation = original.categories, original.compensation
        factor = original.logit_scale.clamp(max=math.log(100)).exp()
        self.attention = ChunkedAttention(wqkv, original.proj, self.heads, factor)
        self.attention.bias[..., self.attention.depth] = 1  # the query's code
        self.proj = nn.Identity()  # type: ignore[assignment]

    def _attend(self, places: Tensor, groups: Groups) -> Tensor:
        """Eq. 15, and the projection, on the normed tokens of every place. 1 S C -> S C."""
        tokens = places.reshape(-1, self.chunk, 1, self.group, places.shape[-1])
        # Only where there is one group can it have places without a token.
        shared = None if groups.key is None else self.attention.widened(groups.key[:1])
        out: Tensor = self.attention(tokens, shared=shared)
        return out


class ChunkedLayer(Layer):
    """``Layer`` with both attentions in chunks of so many windows and groups."""

    attn_aca: ChunkedCategoryAttention

    def __init__(self, original: Layer, windows: int, groups: int) -> None:
        nn.Module.__init__(self)
        self.shifted, self.refines = original.shifted, original.refines
        for name, module in original.named_children():
            setattr(self, name, module)
        if self.refines:
            self.sigma = original.sigma
        self.attn_win = ChunkedWindowAttention(original.wqkv, original.attn_win, windows)  # type: ignore[assignment]
        self.attn_aca = ChunkedCategoryAttention(original.wqkv, original.attn_aca, groups)
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


class SpeltNorm(nn.Module):
    """A LayerNorm without affine part, step by step: onnxruntime's own is slower on short rows."""

    def __init__(self, original: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = original.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * ((centred * centred).mean(-1, keepdim=True) + self.eps).rsqrt()


class UnitDictionaryAttention(DictionaryAttention):
    """``DictionaryAttention`` whose vectors of length 1 are one operator each."""

    @torch.no_grad()
    def __init__(self, original: DictionaryAttention) -> None:
        nn.Module.__init__(self)
        self.entries, self.wq, self.wk, self.wv = (
            *(original.entries, original.wq),
            *(original.wk, original.wv),
        )
        self.scale = nn.Parameter(1 + original.scale.clamp(0, 1) * math.log(self.entries))

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
    network: ATD, windows: int = 1, groups: int = 1, *, spell_norms: bool = False
) -> ATD:
    """Return a copy of ``network`` in this form, with what ``fold`` rewrites and CPUs gain from."""
    folded = copy.deepcopy(network)
    for module in folded.modules():
        if not isinstance(module, LayerGroup):
            continue
        for place, layer in enumerate(module.layers):
            assert isinstance(layer, Layer)
            fold_norms(layer)
            drop_refinement_bias(layer)
            layer.attn_atd = UnitDictionaryAttention(layer.attn_atd)
            pass_value_bias(layer)
            if spell_norms:
                layer.norm1, layer.norm2 = SpeltNorm(layer.norm1), SpeltNorm(layer.norm2)  # type: ignore[assignment]
            layer.convffn = TokenFeedForward(layer.convffn)
            module.layers[place] = ChunkedLayer(layer, windows, groups)
    return folded


def padded(index: Tensor, multiple: int) -> Tensor:
    """Repeat the last entry until there are a multiple of ``multiple``. n -> n'."""
    if multiple == 1:
        return index
    length = index.shape[0]
    count = (length + multiple - 1) // multiple * multiple
    return index.index_select(0, torch.arange(count, device=index.device).clamp(max=length - 1))


def _flat(codes: Tensor | None) -> Tensor | None:
    return None if codes is None else codes.flatten(0, 1)
