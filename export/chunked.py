"""Attention as CPUs like it: from tokens to projected tokens, a few windows at a time.

The logits of a picture do not fit into a CPU's caches: each pass over them (product, bias, softmax,
product) goes to memory and back. Here one chunk goes all the way, and its logits stay in the cache;
a picture never holds more of them. The network is the same up to rounding.

- Tokens are gathered before q, k and v are made of them: 48 channels instead of 192.
- A softmax over keys does not see what is the same for all keys: the keys' bias is dropped. Its
  rows sum to 1: the values' bias goes into the projection's. Weights that hold the biases already
  (``biases.carry_norm_biases``) have none, nor has a projection then (``pass_projection_biases``).
- Of shifted windows those at the border come last. Only their chunks need the codes of the mask,
  and heads that are wider for them.

The tracer writes one operator for each attention; ``attention_nodes`` spells it for each runtime.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppsr.models.attention import WindowAttention, Windows
from ppsr.models.category import Groups, category_order, category_rank
from ppsr.models.category_attention import CategoryAttention

DOMAIN, OPERATOR = "ppsr", "ChunkedAttention"
"""What the tracer writes for ``ChunkedAttention``."""


class ChunkedAttention(nn.Module):
    """softmax(q k^T + bias) v, projected, of tokens that are gathered and cut into chunks."""

    @torch.no_grad()
    def __init__(
        self,
        wqkv: nn.Linear,
        proj: nn.Linear,
        heads: int,
        factor: float | Tensor,
        codes: int = 0,
        added: Tensor | None = None,
    ) -> None:
        """factor: on the queries; codes: channels that a mask adds to each head, if it has any.

        added: to the values, C, by the tokens' last channel: it must hold 1.
        """
        super().__init__()
        channels = wqkv.in_features
        self.heads, self.depth, self.codes = heads, channels // heads, codes
        q, k, v = wqkv.weight.t().chunk(3, 1)
        self.q, self.k, self.v = (nn.Parameter(one.contiguous()) for one in (q * factor, k, v))
        self.bias: nn.Parameter | None = None
        self.proj = copy.deepcopy(proj)
        if added is not None:
            self.v[-1] += added
        if wqkv.bias is not None:
            q_bias, _, v_bias = wqkv.bias.reshape(3, channels)
            self.bias = nn.Parameter((q_bias * factor).flatten())
            self.proj.bias.add_(proj.weight @ v_bias)

    def forward(
        self,
        tokens: Tensor,
        bias: Tensor | None = None,
        query: Tensor | None = None,
        key: Tensor | None = None,
        coded: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """tokens: n c L C; bias: 1 heads L L; codes: n c L W; mask: L L, if any -> n*c*L C.

        W: the channels of all heads, with those for codes. coded: bool n, the chunks whose codes do
        not come to 0 everywhere; None: all. The mask is added to the logits of each window or
        group; it is mostly 0.
        """
        if not torch.compiler.is_exporting():
            return self.attend(tokens.flatten(0, 1), bias, _flat(query), _flat(key), mask)
        count, chunk, length, channels = tokens.shape
        weights = (self.q, self.k, self.v, self.bias, self.proj.weight, self.proj.bias)
        out: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            [tokens, *weights, bias, query, key, coded, mask],
            {"heads": self.heads, "codes": self.codes},
            dtype=tokens.dtype,
            shape=(count, chunk * length, channels),
            version=1,
        )
        return out.flatten(0, 1)

    def in_chunks(self, codes: Tensor, chunk: int) -> Tensor:
        """Put codes behind zeros, the same for each head, and cut them. B 1 L c -> n chunk L W."""
        wide = F.pad(codes, (self.depth, 0)).repeat(1, 1, 1, self.heads).squeeze(1)
        every = padded(torch.arange(codes.shape[0], device=codes.device), chunk)
        cut: Tensor = wide.index_select(0, every).unflatten(0, (-1, chunk))  # type: ignore[no-untyped-call]
        return cut

    def attend(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        query: Tensor | None = None,
        key: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Windows or groups: c L C, codes c L W -> c*L C. As ``attention_nodes`` spells it."""
        q, k, v = (x @ weight for weight in (self.q, self.k, self.v))  # c L C
        q = q if self.bias is None else q + self.bias
        q, k, v = (self._heads(one) for one in (q, k, v))
        if query is not None and key is not None:
            q, k = (
                F.pad(one, (0, self.codes)) + self._heads(code)
                for one, code in ((q, query), (k, key))
            )
        logits = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # c heads L L
        for added in (bias, mask):
            logits = logits if added is None else logits + added
        y = (logits.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.proj(y.reshape(-1, self.proj.in_features))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class ChunkedWindowAttention(nn.Module):
    """``WindowAttention`` on normed tokens instead of their q, k, v."""

    def __init__(
        self,
        wqkv: nn.Linear,
        original: WindowAttention,
        chunk: int,
        shifted: bool,
        added: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.original, self.chunk = original, chunk
        codes = 4 if shifted else 0
        self.attention = ChunkedAttention(
            wqkv, original.proj, original.heads, original.scale, codes, added
        )

    def forward(self, u: Tensor, windows: Windows) -> Tensor:
        """u: 1 T C -> 1 T C."""
        length, coded = self.original.window**2, None
        if windows.border is not None and self.chunk > 1:  # OpenVINO takes all windows at once.
            windows, border = border_last(windows)
            coded = padded(border, self.chunk).reshape(-1, self.chunk).any(1)
        order = padded(windows.order, self.chunk * length)
        tokens = u.index_select(1, order).reshape(-1, self.chunk, length, u.shape[-1])
        query, key = (
            None if code is None else self.attention.in_chunks(code, self.chunk)
            for code in (windows.query, windows.key)
        )
        bias = self.original.position_bias(windows.pairs)
        y: Tensor = self.attention(tokens, bias, query, key, coded)
        return y.index_select(0, windows.rank).unsqueeze(0)


class ChunkedCategoryAttention(CategoryAttention):
    """``CategoryAttention`` on normed tokens instead of their q, k, v."""

    @torch.no_grad()
    def __init__(
        self,
        wqkv: nn.Linear,
        original: CategoryAttention,
        chunk: int,
        added: Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.heads, self.group, self.chunk = original.heads, original.group, chunk
        self.categories, self.compensation = original.categories, original.compensation
        factor = original.logit_scale.clamp(max=math.log(100)).exp()
        self.attention = ChunkedAttention(wqkv, original.proj, self.heads, factor, added=added)
        self.proj = nn.Identity()  # type: ignore[assignment]

    def _keep(self, rank: Tensor, kept: Tensor) -> Tensor:
        return rank.narrow(0, 0, kept.shape[0])

    def _attend(self, places: Tensor, groups: Groups) -> Tensor:
        """Eq. 15, and the projection, on the normed tokens of every place. 1 S C -> S C."""
        tokens = places.reshape(-1, self.chunk, self.group, places.shape[-1])
        # Only where there is one group can it have places without a token.
        mask = None if groups.key is None else groups.key[0].reshape(-1).expand(self.group, -1)
        out: Tensor = self.attention(tokens, mask=mask)
        return out


def border_last(windows: Windows) -> tuple[Windows, Tensor]:
    """The same shifted windows in another order -> and which of them are at the border."""
    border, query, key = windows.border, windows.query, windows.key
    assert border is not None
    assert query is not None
    assert key is not None
    order = category_order(category_rank(border.int().unsqueeze(1), 2))
    tokens = windows.order.reshape(order.shape[0], -1).index_select(0, order).flatten()
    query, key, border = (one.index_select(0, order) for one in (query, key, border))
    return Windows(tokens, category_order(tokens), windows.pairs, query, key, border), border


def padded(index: Tensor, multiple: int) -> Tensor:
    """Repeat the last entry until there are a multiple of ``multiple``. n -> n'."""
    if multiple == 1:
        return index
    length = index.shape[0]
    count = (length + multiple - 1) // multiple * multiple
    return index.index_select(0, torch.arange(count, device=index.device).clamp(max=length - 1))


def _flat(codes: Tensor | None) -> Tensor | None:
    return None if codes is None else codes.flatten(0, 1)
