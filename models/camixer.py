"""CAMixer in place of SW-MSA: windows that are hard attend, the others are only weighed.

"CAMixerSR: Only Details Need More Attention" (CVPR 2024), built into ATD-light as the tables of
Pure-Pass have it (CAMixer-ATD-light). Names follow the official state dict (``CAMixer``), with
ATD's ``wqkv`` and ``proj`` for its projections. Unlike the published code, evaluation draws no
random numbers: the share of hard windows is the ratio that was asked for.

The published totals fix what is counted. Free choices: ATD's four heads and their 1/sqrt(d); keys
K + warp(K), which is what K(x + warp(x)) is to a softmax but for its rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import to_map, to_tokens
from .camixer_route import ChooseWindows, DrawDecisions, Mixing, Predictor


class CAMixer(nn.Module):
    """Attention with warped keys in hard windows, v times one factor a pixel in the others.

    In training mode all windows do both and decisions of 0 or 1, drawn at random, blend them, with
    gradients for the predictor (straight-through Gumbel softmax). In evaluation mode the best
    windows are gathered, attended and put back.
    """

    def __init__(self, channels: int, heads: int, window: int, ratio: float) -> None:
        super().__init__()
        self.heads, self.window, self.depth = heads, window, channels // heads
        self.scale = self.depth**-0.5
        self.route = Predictor(channels, window)
        self.draw = DrawDecisions()
        self.choose = ChooseWindows(ratio)
        self.warp = Warp()
        self.conv_sptial = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, channels, 3, padding=2, groups=channels, dilation=2),
        )
        self.proj = nn.Linear(channels, channels)

    def forward(self, qkv: Tensor, mixing: Mixing) -> Tensor:
        """qkv: B T 3C -> B T C."""
        values = qkv[..., -self.proj.in_features :]
        probability, points, per_channel, per_pixel = self.route(values, mixing)
        easy = values * per_pixel
        if self.training:
            decision = self.draw(probability)
            if mixing.decisions is not None:
                mixing.decisions.append(decision.mean(1))
            every = torch.arange(decision.shape[1], device=qkv.device).expand(len(qkv), -1)
            hard = self._attend(qkv, points, every, easy, mixing)
            mixed = torch.lerp(easy, hard, self._by_token(decision.to(hard.dtype), mixing))
        else:
            chosen = self.choose(probability[..., 0])
            mixed = self._attend(qkv, points, chosen, easy, mixing)
        image = to_map(mixed, mixing.size)
        image = F.gelu(self.conv_sptial(image)) * per_channel[..., None, None] + image
        out: Tensor = self.proj(to_tokens(image))
        return out

    def _attend(
        self, qkv: Tensor, points: Tensor, chosen: Tensor, easy: Tensor, mixing: Mixing
    ) -> Tensor:
        """Replace the chosen windows of ``easy`` by attention within them.

        qkv: B T 3C, points: B T 2, chosen: int64 B k, easy: B T C -> B T C.
        """
        batch, tokens, channels = easy.shape
        length, depth = self.window**2, channels // self.heads
        members = mixing.windows.order.reshape(-1, length).index_select(0, chosen.flatten())
        first = torch.arange(batch, device=qkv.device).reshape(-1, 1, 1) * tokens
        members = (members.reshape(batch, -1, length) + first).flatten()  # among all B*T
        tiles = qkv.flatten(0, 1).index_select(0, members)
        warped = self.warp(to_map(qkv[..., channels:-channels], mixing.size), points, members)
        q, k, v = tiles.reshape(-1, length, 3, self.heads, depth).permute(2, 0, 3, 1, 4)
        k = k + warped.reshape(-1, length, self.heads, depth).transpose(1, 2)
        if self.scale != 1:  # 1 once ppsr.export.fold put it into the weights
            q = q * self.scale
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v  # B*k heads L depth
        y = y.transpose(1, 2).reshape(-1, channels)
        return easy.flatten(0, 1).index_copy(0, members, y).reshape(easy.shape)

    def _by_token(self, decision: Tensor, mixing: Mixing) -> Tensor:
        """Spread B N over the tokens of each window. -> B T 1."""
        spread = decision.unsqueeze(-1).expand(-1, -1, self.window**2).flatten(1)
        return spread.index_select(1, mixing.windows.rank).unsqueeze(-1)


class Warp(nn.Module):
    """Take a map at points between its pixels: bilinear, what lies outside is the border's.

    It owns no parameters; precision islands name it: no half precision tells pixels of a large
    picture apart.
    """

    def forward(self, image: Tensor, points: Tensor, tokens: Tensor) -> Tensor:
        """image: B C H W; points: float32 or wider B T 2, column and row -> n C.

        tokens: int64 n, as many of each picture, the points to take among all B*T.
        """
        batch, channels, height, width = image.shape
        at = points.flatten(0, 1).index_select(0, tokens).reshape(batch, 1, -1, 2)
        last = torch.stack([_scalar(side - 1, points) for side in (width, height)])
        sampled = F.grid_sample(
            image.to(points.dtype),
            at * (2 / last) - 1,
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        taken = sampled.permute(0, 2, 3, 1).reshape(-1, channels)
        return taken.to(image.dtype)


def _scalar(value: int, like: Tensor) -> Tensor:
    """A size as a tensor: ``like.new_tensor`` would make it a constant of the trace."""
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)
