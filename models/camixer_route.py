"""Which windows CAMixer lets attend: its predictor, and the choice that follows from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Windows, to_map, to_tokens
from .camixer_flops import rounded_share

REACH = 8.0
"""Pixels that a warped key can come from afar, each way."""
SLOPE = 0.1
"""Of every LeakyReLU."""


class Mixing(NamedTuple):
    """What every CAMixer needs to know of the pictures it works on: the same in all layers."""

    size: tuple[int, int]
    """Height and width in tokens, multiples of the window."""
    windows: Windows
    places: Tensor
    """float32 T 2: column and row of each token."""
    condition: Tensor
    """B T 4: two channels that the network makes of the picture, row and column in the window."""
    decisions: list[Tensor] | None = None
    """Where each layer puts B: the share of its windows that attend. Filled in training mode."""


class PlanMixing(nn.Module):
    """Plans pictures for all layers. It owns no parameters; precision islands name it: no half
    precision counts the columns of a large picture.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(
        self, globally: Tensor, windows: Windows, decisions: list[Tensor] | None = None
    ) -> Mixing:
        """globally: B 2 H W, H and W multiples of the window."""
        batch, _, height, width = globally.shape
        rows = torch.arange(height, device=globally.device).unsqueeze(1).expand(-1, width)
        columns = torch.arange(width, device=globally.device).expand(height, -1)
        within = torch.stack((rows % self.window, columns % self.window), -1).flatten(0, 1)
        # linspace(-1, 1, window)
        within = within.to(globally.dtype) * (2 / (self.window - 1)) - 1
        condition = torch.cat((to_tokens(globally), within.expand(batch, -1, -1)), -1)
        places = torch.stack((columns, rows), -1).flatten(0, 1).float()
        return Mixing((height, width), windows, places, condition, decisions)


class Route(NamedTuple):
    """What the predictor says of one layer."""

    probability: Tensor
    """B N 2: that a window is hard, that it is easy."""
    points: Tensor
    """float32 or wider B T 2: column and row that each token's second key is taken from."""
    per_channel: Tensor
    """B C in (0, 1): the share of each channel in the convolved output."""
    per_pixel: Tensor
    """B T 1 in (0, 1): what easy windows multiply their values by."""


class GlobalPredictor(nn.Sequential):
    """Two channels of the picture that all predictors are told of. B C H W -> B 2 H W."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 8, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(8, 2, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        )


class TokenMean(nn.Module):
    """The mean over all tokens. B T C -> B C."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Predictor(nn.Module):
    """The predictor of CAMixer (official PredictorLG; its 1 x 1 convolutions are linear here)."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        known = channels + 4
        features, narrow = known // 4, known // 8
        self.length = window**2
        self.in_conv = nn.Sequential(
            nn.Linear(known, features), nn.LayerNorm(features, eps=1e-6), nn.LeakyReLU(SLOPE)
        )
        self.out_offsets = nn.Sequential(
            nn.Linear(features, narrow), nn.LeakyReLU(SLOPE), nn.Linear(narrow, 2), nn.Tanh()
        )
        self.out_mask = nn.Sequential(
            nn.Linear(self.length, window),
            nn.LeakyReLU(SLOPE),
            nn.Linear(window, 2),
            nn.Softmax(-1),
        )
        self.out_CA = nn.Sequential(TokenMean(), nn.Linear(features, channels), nn.Sigmoid())
        self.out_SA = nn.Sequential(nn.Conv2d(features, 1, 3, padding=1), nn.Sigmoid())

    def forward(self, values: Tensor, mixing: Mixing) -> Route:
        """values: B T C."""
        e = self.in_conv(torch.cat((values, mixing.condition), -1))
        mean = e.mean(-1).index_select(1, mixing.windows.order)
        per_pixel = self.out_SA(to_map(e, mixing.size))
        return Route(
            self.out_mask(mean.reshape(mean.shape[0], -1, self.length)),
            mixing.places + self.out_offsets(e) * REACH,
            self.out_CA(e),
            per_pixel.flatten(1).unsqueeze(-1),
        )


class ChooseWindows(nn.Module):
    """The share of the windows with the best scores; ties go to the lower index.

    It owns no parameters: parity checks read it and impose it. No backend's order of equal values
    matters: what is sorted in the end is unequal whole numbers.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, score: Tensor) -> Tensor:
        """score: B N -> int64 B k, k being the share rounded (a half upwards), 1 at least."""
        windows = score.shape[1]
        kept = torch.sym_max(1, rounded_share(windows, self.ratio))  # type: ignore[no-untyped-call]
        least = score.topk(kept, 1).values.amin(1, keepdim=True)
        merit = (score > least).int() * 2 + (score == least).int()
        place = torch.arange(windows, device=score.device, dtype=torch.int32)
        return (merit * windows - place).topk(kept, 1).indices


class DrawDecisions(nn.Module):
    """Decisions of 0 and 1 drawn by the probabilities, with the gradient of a soft decision.

    As published the noise is added to the probabilities themselves, not to their logarithms: a
    window attends with a probability between 0.27 and 0.73. torch's global generator makes it.
    """

    def forward(self, probability: Tensor) -> Tensor:
        """probability: B N 2 -> B N."""
        return F.gumbel_softmax(probability, hard=True, dim=-1)[..., 0]
