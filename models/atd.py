"""ATD-light, PP-ATD-light and CAMixer-ATD-light: the network, as published.

"Transcending the Limit of Local Window" (ATD, CVPR 2024), version 1 of the official code, and on
top of it Pure-Pass (arXiv 2510.01997) or what that paper compares itself with, CAMixer. Module
names follow the official state dict.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import WindowAttention, Windows, plain_windows, shifted_windows, to_map, to_tokens
from .camixer import CAMixer
from .camixer_route import GlobalPredictor, Mixing, PlanMixing
from .category import Groups, group_tokens
from .category_attention import CategoryAttention
from .config import Config
from .dictionary import DictionaryAttention, DictionaryRefinement
from .feed_forward import ConvFeedForward
from .network import Network
from .pure_pass import GRID
from .routing import PurityMask

MEAN = (0.4488, 0.4371, 0.4040)
"""RGB mean of DIV2K, subtracted from the picture and added to the output."""


class Layout(NamedTuple):
    """What every layer needs to know of the picture it works on."""

    size: tuple[int, int]
    """Height and width in tokens, multiples of the window."""
    plain: Windows
    shifted: Windows
    groups: Groups
    mixing: Mixing | None = None
    """Of CAMixer, in the place of SW-MSA."""


class Layer(nn.Module):
    """x + SW-MSA + ATD-CA + AC-MSA, then ConvFFN, then the dictionary (ATDTransformerLayer).

    With a ratio of windows to attend CAMixer takes the place of SW-MSA.
    """

    sigma: nn.Parameter
    norm3: nn.Module

    def __init__(self, config: Config, shifted: bool, refines: bool) -> None:
        super().__init__()
        c = config.channels
        self.shifted, self.refines = shifted, refines
        self.norm1 = nn.LayerNorm(c)
        self.norm2 = nn.LayerNorm(c)
        self.wqkv = nn.Linear(c, 3 * c)
        self.attn_win: WindowAttention | CAMixer
        if config.ratio is None:
            self.attn_win = WindowAttention(c, config.heads, config.window)
        else:
            self.attn_win = CAMixer(c, config.heads, config.window, config.ratio)
        self.attn_atd = DictionaryAttention(c, config.dictionary, config.reduced)
        self.attn_aca = CategoryAttention(
            c,
            config.heads,
            config.group,
            config.dictionary,
            compensation=config.pure_pass is None or config.pure_pass.compensation,
        )
        self.convffn = ConvFeedForward(c, config.hidden, config.kernel)
        self.refine = DictionaryRefinement()
        if refines:
            self.sigma = nn.Parameter(torch.zeros(config.dictionary, 1))
            self.norm3 = nn.InstanceNorm1d(config.dictionary, affine=True)

    def forward(self, x: Tensor, dictionary: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """x: B T C, dictionary: B K C -> the same two, one layer on."""
        u = self.norm1(x)
        x_atd, similarity = self.attn_atd(u, dictionary)
        x_win, x_aca = self.attend(u, similarity, layout)
        x = x + x_win + x_atd + x_aca
        x = x + self.convffn(self.norm2(x), layout.size)
        if self.refines:
            dictionary = self.refine(dictionary, similarity, x, self.sigma, self.norm3)
        return x, dictionary

    def attend(self, u: Tensor, similarity: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """SW-MSA and AC-MSA, of one set of q, k, v. u: B T C, similarity: B T K -> both B T C."""
        qkv = self.wqkv(u)
        windows = layout.shifted if self.shifted else layout.plain
        x_win = self.attn_win(qkv, layout.mixing or windows)
        return x_win, self.attn_aca(qkv, similarity, x_win, layout.groups)


class LayerGroup(nn.Module):
    """The layers of one block, with the dictionary they hand on (official BasicBlock)."""

    def __init__(self, config: Config, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(config, shifted=i % 2 == 1 and config.ratio is None, refines=i < depth - 1)
            for i in range(depth)
        )
        self.td = nn.Parameter(torch.randn(config.dictionary, config.channels))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        dictionary = self.td.expand(x.shape[0], -1, -1)
        for layer in self.layers:
            x, dictionary = layer(x, dictionary, layout)
        return x


class Block(nn.Module):
    """Layers, a 3x3 convolution, and the block's input added (official ATDB)."""

    def __init__(self, config: Config, depth: int) -> None:
        super().__init__()
        self.residual_group = LayerGroup(config, depth)
        self.conv = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        return to_tokens(self.conv(to_map(self.residual_group(x, layout), layout.size))) + x


class PatchEmbed(nn.Module):
    """A LayerNorm under its official name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class ATD(Network):
    """ATD-light, or PP-ATD-light when ``config.pure_pass`` is set: the weights are the same.

    In training mode a batch is routed with static shapes (one mask per sample); in evaluation mode
    pictures are routed one by one and pure tokens cost nothing in AC-MSA. Both give one result.

    With ``config.ratio`` it is CAMixer-ATD-light, which has weights of its own. There training mode
    draws at random which windows attend, and evaluation mode takes the best.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config.channels
        self.config, self.scale = config, config.scale
        self.purity = PurityMask(config.pure_pass) if config.pure_pass else None
        self.conv_first = nn.Conv2d(3, c, 3, padding=1)
        if config.ratio is not None:
            self.global_predictor = GlobalPredictor(c)
            self.plan = PlanMixing(config.window)
        self.patch_embed = PatchEmbed(c)
        self.layers = nn.ModuleList(Block(config, depth) for depth in config.depths)
        self.norm = nn.LayerNorm(c)
        self.conv_after_body = nn.Conv2d(c, c, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(c, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)

    config: Config
    mean: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """image: N 3 H W in [0, 1], any H and W from 8 up -> N 3 S*H S*W, not clamped.

        The dtype is kept. Raises ValueError for another shape.
        """
        padded = pad_picture(image)
        if self.purity is None:
            out = self.upscale(padded, None)
        elif self.training:
            out = self.upscale(padded, ~self.purity(padded).flatten(1))
        else:
            pure = self.purity(padded).flatten(1)
            active = [(~mask).nonzero().squeeze(1) for mask in pure]
            parts = [
                self.upscale(one, index)
                for one, index in zip(torch.split(padded, 1), active, strict=True)
            ]
            out = torch.cat(parts)
        return self._cut(out, image)

    def training_forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward`` -> the output, and N L: the share of windows each layer drew to attend.

        Raises ValueError without ``config.ratio``, in evaluation mode, and as ``forward`` does.
        """
        if self.config.ratio is None or not self.training:
            got = f"{self.config.name} in {'training' if self.training else 'evaluation'} mode"
            raise ValueError(f"expected camixer-atd-light in training mode, got {got}")
        decisions: list[Tensor] = []
        out = self.upscale(pad_picture(image), None, decisions)
        return self._cut(out, image), torch.stack(decisions, 1)

    def upscale(
        self, image: Tensor, active: Tensor | None, decisions: list[Tensor] | None = None
    ) -> Tensor:
        """The network proper: image N 3 H W, H and W multiples of 16 -> N 3 S*H S*W.

        active: None, int64 n or bool N H*W, see ``Groups``; decisions: see ``Mixing``.
        """
        size = (image.shape[2], image.shape[3])
        mean = self.mean.to(image.dtype)
        first = self.conv_first(image - mean)
        config = self.config
        cut = (*size, config.window, first)
        groups = group_tokens(active, size[0] * size[1], config.group, config.dictionary, first)
        plain = plain_windows(*cut)
        if config.ratio is None:
            layout = Layout(size, plain, shifted_windows(*cut), groups)
        else:
            mixing = self.plan(self.global_predictor(first), plain, decisions)
            layout = Layout(size, plain, plain, groups, mixing)
        x = self.patch_embed(to_tokens(first))
        for block in self.layers:
            x = block(x, layout)
        body = self.conv_after_body(to_map(self.norm(x), size)) + first
        out: Tensor = self.upsample(body) + mean
        return out

    def _cut(self, out: Tensor, image: Tensor) -> Tensor:
        """Take the padding off the output of ``image``."""
        height, width = image.shape[2:]
        return out[..., : height * self.scale, : width * self.scale]


def pad_picture(image: Tensor) -> Tensor:
    """``pad_to_grid`` of N 3 H W, H and W of at least 8; ValueError for another shape."""
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 8:
        raise ValueError(f"expected N 3 H W with H and W of at least 8, got {tuple(image.shape)}")
    return pad_to_grid(image)


def pad_to_grid(image: Tensor, grid: int = GRID) -> Tensor:
    """Mirror N C H W at the bottom and right, edge repeated, to multiples of ``grid``."""
    for axis in (2, 3):
        extra = -image.shape[axis] % grid
        if extra:
            tail = image.narrow(axis, image.shape[axis] - extra, extra)
            image = torch.cat((image, tail.flip(axis)), axis)
    return image
