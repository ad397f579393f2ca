"""AdaFormer: attention blocks that well-recovered tokens leave early, amid convolutions.

"AdaFormer: Efficient Transformer with Adaptive Token Sparsification for Image Super-resolution"
(AAAI 2024), with the structure of the official code where the paper leaves it open. Module names
follow the official state dict; modules that the official network never uses are not here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adaformer_attention import TokenAttention
from .adaformer_config import AdaFormerConfig
from .adaformer_layout import cut, join
from .atd import MEAN, pad_picture
from .halting import Exit, ExitRule, Halting, Kept
from .network import Form, Network

RANGE = 255.0
"""The official network's pixel range: its features, weights and mean belong to it."""


class MeanShift(nn.Conv2d):
    """Subtract or add the RGB mean of DIV2K: 12 numbers, held fixed (official MeanShift)."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
            self.bias.copy_(sign * RANGE * torch.tensor(MEAN))  # type: ignore[union-attr]
        self.requires_grad_(False)


class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x))) (official ResBlock, of EDSR)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.body = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class FeedForward(nn.Module):
    """Two linear layers with GELU between them (official Mlp)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """x + attention, then + MLP, which all tokens go through (official TSAB; eq. 14)."""

    def __init__(self, config: AdaFormerConfig) -> None:
        super().__init__()
        c = config.channels
        self.attn = TokenAttention(c, config.heads, config.window, config.prototypes)
        self.norm1 = nn.LayerNorm(c)
        self.norm2 = nn.LayerNorm(c)
        self.mlp = FeedForward(c, config.mlp_ratio * c)

    def forward(self, x: Tensor, kept: Kept | None, sparse: bool) -> Tensor:
        """x: N W L C -> N W L C."""
        x = x + self.attn(self.norm1(x), kept, sparse)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Estimator(nn.Sequential):
    """How well recovered each token is, in (0, 1) (eq. 15). N C H W -> N 1 H W."""

    def __init__(self, channels: int) -> None:
        first = nn.Conv2d(channels, channels // 2, 3, padding=1)
        super().__init__(first, nn.Tanh(), nn.Conv2d(channels // 2, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x.sigmoid()


class Attended(NamedTuple):
    """What the attention blocks make of a map of features."""

    out: Tensor
    """N C H W."""
    confidences: list[Tensor]
    """N 1 H W of each block in training; at evaluation the last decides nothing and is left out."""
    kept: list[Kept | None]
    """What each block attended to; None: everything, as the first one always does."""

    def counted(self) -> Tensor:
        """Say how many blocks attended to each token, globally. -> int32 N 1 H W."""
        batch, _, *size = self.out.shape
        everywhere = sum(kept is None for kept in self.kept)
        count = self.out.new_full((batch, 1, *size), everywhere, dtype=torch.int32)
        parts = [kept.tokens.int() for kept in self.kept if kept is not None]
        if not parts:
            return count
        return count + join(sum(parts[1:], parts[0]).unsqueeze(-1), (size[0], size[1]))


class Body(nn.Module):
    """The attention blocks between two 1x1 convolutions, the input added (AdaM; official PSPL)."""

    def __init__(self, config: AdaFormerConfig) -> None:
        super().__init__()
        c = config.channels
        self.window = config.window
        self.embed = nn.Conv2d(c, c, 1)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.exits = nn.ModuleList(
            Exit(config.threshold, config.window) for _ in range(config.blocks - 1)
        )
        self.var = Estimator(c)
        self.unembed = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor, sparse: bool, rule: ExitRule | None) -> Attended:
        """x: N C H W, H and W multiples of the window. ``rule`` replaces the learnt exit."""
        size = (x.shape[2], x.shape[3])
        tokens = cut(self.embed(x), self.window)
        confidences: list[Tensor] = []
        decisions: list[Kept | None] = []
        score: Tensor | None = None
        for index, block in enumerate(self.blocks):
            kept = None
            if rule is not None:
                kept = rule(index, tokens)
            elif index:
                kept, score = self.exits[index - 1](confidences[-1], score)
            decisions.append(kept)
            tokens = block(tokens, kept, sparse)
            if rule is None and (self.training or index < len(self.exits)):
                # Detached: what the loss asks of the confidences must not bend the features.
                confidences.append(self.var(join(tokens.detach(), size)))
        return Attended(x + self.unembed(join(tokens, size)), confidences, decisions)


class AdaFormer(Network):
    """AdaFormer. Which tokens a block attends to is decided inside, from features.

    At evaluation ``form`` says how: "dense" masks what is halted, "sparse" computes only what is
    kept, picture by picture. Both give one result. Training is dense. ``exit_rule``, where set,
    replaces the learnt exit at evaluation.
    """

    def __init__(self, config: AdaFormerConfig) -> None:
        super().__init__()
        c, half = config.channels, config.resblocks // 2
        self.config, self.scale, self.purity = config, config.scale, None
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, c, 3, padding=1))
        self.shollow_feature_extraction = nn.Sequential(*(ResBlock(c) for _ in range(half)))
        self.body = Body(config)
        self.deep_feature_extraction = nn.Sequential(*(ResBlock(c) for _ in range(half)))
        self.tail = nn.Sequential(
            nn.Conv2d(c, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    config: AdaFormerConfig
    form: Form = "dense"
    exit_rule: ExitRule | None = None

    def forward(self, image: Tensor) -> Tensor:
        """image: N 3 H W in [0, 1], any H and W from 8 up -> N 3 S*H S*W, not clamped.

        The dtype is kept. Mirrored to multiples of 16, the edge repeated (official: of 8, not
        repeated). Raises ValueError for another shape.
        """
        padded = pad_picture(image)
        if self.form == "sparse" and not self.training:
            out = torch.cat([self.upscale(one) for one in torch.split(padded, 1)])
        else:
            out = self.upscale(padded)
        return self._crop(out, image)

    def training_forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image as ``forward``, in training mode -> its output, and confidences N L 1 H W.

        One confidence in (0, 1) for each token and block, for the uncertainty loss (eq. 17).
        """
        out, attended = self._run(pad_picture(image), sparse=False, rule=None)
        confidences = torch.stack(attended.confidences, 1)
        return self._crop(out, image), confidences[..., : image.shape[2], : image.shape[3]]

    def upscale(self, image: Tensor, active: Tensor | None = None) -> Tensor:
        """The network proper: image N 3 H W, H and W multiples of 16 -> N 3 S*H S*W.

        N is 1 in the sparse form. Raises ValueError for ``active``: the picture says nothing here.
        """
        return self.outputs(image, active)[0]

    def outputs(self, image: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As ``upscale``, and how many blocks attended to each token, int32 N 1 H W."""
        if active is not None:
            raise ValueError(f"expected active=None, got {tuple(active.shape)}")
        if self.training:
            out, attended = self._run(image, sparse=False, rule=None)
        else:
            out, attended = self._run(image, self.form == "sparse", self.exit_rule)
        return out, attended.counted()

    @torch.no_grad()
    def halting(self, image: Tensor) -> Halting:
        """Say what each block attends to. image: N 3 H W as ``forward``, in evaluation mode."""
        padded = pad_picture(image)
        size = (padded.shape[2], padded.shape[3])
        _, attended = self._run(padded, sparse=False, rule=self.exit_rule)
        everything = image.new_ones(len(image), 1, *size, dtype=torch.bool)
        tokens, windows = [], []
        for kept in attended.kept:
            if kept is None:
                tokens.append(everything)
                windows.append(everything)
            else:
                tokens.append(join(kept.tokens.unsqueeze(-1), size))
                spread = kept.windows[..., None, None].expand(*kept.tokens.shape, 1)
                windows.append(join(spread, size))
        height, width = image.shape[2:]
        return Halting(
            [one[:, 0, :height, :width] for one in tokens],
            [one[:, 0, :height, :width] for one in windows],
            [one.double().mean().item() for one in tokens],
            [one.double().mean().item() for one in windows],
        )

    def _run(self, image: Tensor, sparse: bool, rule: ExitRule | None) -> tuple[Tensor, Attended]:
        first = self.head(self.sub_mean(image * RANGE))
        attended: Attended = self.body(self.shollow_feature_extraction(first), sparse, rule)
        deep = self.deep_feature_extraction(attended.out) + first
        return self.add_mean(self.tail(deep)) / RANGE, attended

    def _crop(self, out: Tensor, image: Tensor) -> Tensor:
        return out[..., : image.shape[2] * self.scale, : image.shape[3] * self.scale]
