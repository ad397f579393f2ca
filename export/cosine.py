"""Cosine similarity by norms that TensorRT has as one layer each; part of ``fold``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppsr.models.dictionary import DictionaryAttention

EPSILON = 1e-12
"""Added to the mean square of a query or key of the dictionary.

``F.normalize`` divides by max(norm, 1e-12) instead: zero vectors stay zero either way, and of
others a relative EPSILON * channels / (2 norm^2) is lost: below FP32's rounding from a norm of 0.01
up. It is an attribute of the graph's norms, not a tensor: FP16 need not hold it.
"""


class NormedDictionaryAttention(DictionaryAttention):
    """DictionaryAttention with its cosines as the product of two norms.

    [q, -q] has mean 0, so LayerNormalization makes sqrt(r) [q, -q] / |q| of it, r being the
    channels of q, and [q, -q].[k, -k] = 2 q.k. The sharpness of each entry takes up 1/2r.
    """

    first: bool
    """Whether the dictionary is a constant: the tracer folds ``F.normalize``, not this norm."""

    @torch.no_grad()
    def __init__(self, original: DictionaryAttention, first: bool) -> None:
        nn.Module.__init__(self)
        self.first, self.entries, self.wv = first, original.entries, original.wv
        self.wq, self.wk = _mirrored(original.wq), _mirrored(original.wk)
        width = self.wq.out_features  # 2r
        self.scale = nn.Parameter(original.sharpness() / width)
        # With ones and zeros, that all layers share: TensorRT makes constants of its own of none.
        self.norm = nn.LayerNorm(width, EPSILON).to(original.scale)

    def forward(self, x: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        """x: B T C, dictionary: B K C -> output B T C, similarity B T K."""
        q, k = self.norm(self.wq(x)), self.wk(dictionary)
        k = F.normalize(k, dim=-1) * math.sqrt(k.shape[-1]) if self.first else self.norm(k)
        similarity = (q @ (k * self.scale.unsqueeze(-1)).transpose(-2, -1)).softmax(-1)
        return similarity @ self.wv(dictionary), similarity


def _mirrored(linear: nn.Linear) -> nn.Linear:
    """W, b -> [W, -W], [b, -b]."""
    doubled = nn.Linear(linear.in_features, 2 * linear.out_features).to(linear.weight)
    doubled.weight.copy_(torch.cat((linear.weight, -linear.weight)))
    doubled.bias.copy_(torch.cat((linear.bias, -linear.bias)))
    return doubled
