"""The feed-forward network with a depth-wise convolution between its two layers (ConvFFN)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv(nn.Module):
    """A depth-wise convolution over tokens laid out as a map, then GELU. B T C -> B T C."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.depthwise_conv = nn.Sequential(conv, nn.GELU())

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        batch, _, channels = x.shape
        mapped = x.transpose(1, 2).reshape(batch, channels, *size)
        out: Tensor = self.depthwise_conv(mapped).flatten(2).transpose(1, 2)
        return out


class ConvFeedForward(nn.Module):
    """z = GELU(fc1 x); fc2(z + GELU(dwconv z)) (official ConvFFN). B T C -> B T C."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden, kernel)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        z = F.gelu(self.fc1(x))
        out: Tensor = self.fc2(z + self.dwconv(z, size))
        return out
