"""The token dictionary: cross-attention to it (ATD-CA) and its refinement from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DictionaryAttention(nn.Module):
    """ATD-CA: cosine attention from every token to the dictionary (official ATD_CA)."""

    def __init__(self, channels: int, entries: int, reduced: int) -> None:
        super().__init__()
        self.entries = entries
        self.wq = nn.Linear(channels, reduced)
        self.wk = nn.Linear(channels, reduced)
        self.wv = nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.full((entries,), 0.5))

    def forward(self, x: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        """x: B T C, dictionary: B K C -> output B T C, similarity B T K (rows sum to 1)."""
        q = F.normalize(self.wq(x), dim=-1)
        k = F.normalize(self.wk(dictionary), dim=-1)
        similarity = (q @ (k * self.sharpness().unsqueeze(-1)).transpose(-2, -1)).softmax(-1)
        return similarity @ self.wv(dictionary), similarity

    def sharpness(self) -> Tensor:
        """Return the factor on the cosines of each entry. -> K."""
        return 1 + self.scale.clamp(0, 1) * math.log(self.entries)


class DictionaryRefinement(nn.Module):
    """Move each entry towards the tokens that resemble it (ATD eq. 7, official layer forward).

    It owns no parameters: the published checkpoints keep them in the layer.
    """

    def forward(
        self, dictionary: Tensor, similarity: Tensor, x: Tensor, sigma: Tensor, norm: nn.Module
    ) -> Tensor:
        """dictionary: B K C, similarity: B T K, x: B T C, sigma: K 1 -> B K C."""
        weight = norm(similarity.transpose(1, 2)).softmax(-1)  # B K T: softmax over the picture
        refined: Tensor = dictionary + (1 - sigma.sigmoid()) * (weight @ x - dictionary)
        return refined
