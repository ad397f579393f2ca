"""What one picture costs, in multiply-adds: as the papers count, and as the network runs.

The papers' figure (ATD-light 87.15 G at x4) is the official ``flops()`` on the unpadded picture. It
leaves out the dictionary refinement and most of the last convolution, among others; the count
beside it is what the matrix products and convolutions really do.
"""

from __future__ import annotations

import math

from .config import Config, config_for
from .pure_pass import GRID


def paper_flops(name: str, scale: int, height: int, width: int, pure: float = 0.0) -> float:
    """Return the multiply-adds as ATD and Pure-Pass count them (a number, not G).

    height, width: of the low-resolution picture. pure: share of pure pixels in [0, 1]; they are
    spared AC-MSA including its projection (Pure-Pass, table 2). Raises ValueError otherwise.
    """
    config = _checked(name, scale, height, width, pure)
    c, n = config.channels, height * width
    window = (2 * config.window**2 + c) * c * n
    dictionary = (2 * config.reduced + config.dictionary) * c * n
    entries = config.dictionary * c * (config.reduced + c)
    category = (2 * config.group + c) * c * n * (1 - pure)
    feed_forward = (2 * config.hidden + config.kernel**2) * c * n
    layer = 3 * c * c * n + window + dictionary + entries + category + feed_forward
    blocks = sum(config.depths) * layer + len(config.depths) * 9 * c * c * n
    return float(blocks + (27 + 1) * c * n + 3 * c * c * n + 27 * c * n)


def multiply_adds(name: str, scale: int, height: int, width: int, active: int | None = None) -> int:
    """Return the true multiply-adds of every matrix product and convolution of one forward.

    The picture is padded to multiples of 16, and active tokens to whole groups of 128, as the
    network does. active: number of active tokens, of the padded picture. None is the dense network:
    every token attends and, for "pp-atd-light" too, there is no mask to make. Raises ValueError for
    ``active`` with "atd-light" or outside 0 to H W of the padded picture, and as ``paper_flops``.
    """
    config = _checked(name, scale, height, width, 0.0)
    c, d, r = config.channels, config.dictionary, config.reduced
    n = (math.ceil(height / GRID) * GRID) * (math.ceil(width / GRID) * GRID)
    if active is not None and config.pure_pass is None:
        raise ValueError(f"{name} has no mask: expected active=None, got {active}")
    if active is not None and not 0 <= active <= n:
        raise ValueError(f"expected 0 to {n} active tokens, got {active}")
    routed = n if active is None else active
    grouped = max(1, math.ceil(routed / config.group)) * config.group
    # The masks ride on the inner products as extra channels: 4 in shifted windows, 1 in groups.
    window = (2 * c + 4 * config.heads / 2) * config.window**2 * n + c * c * n
    key_channel = 0 if active is None else config.heads
    category = (2 * c + key_channel) * config.group * grouped + c * c * routed
    dictionary = (c * r + r * d + d * c) * n + d * c * (r + c)
    feed_forward = (c * config.hidden * 2 + config.hidden * config.kernel**2) * n
    layer = 3 * c * c * n + window + category + dictionary + feed_forward
    refine = d * n * c
    layers = sum(config.depths)
    refined = layers - len(config.depths)
    convolutions = 9 * n * (3 * c + (len(config.depths) + 1) * c * c + c * 3 * scale**2)
    mask = 3 * len(config.pure_pass.centres) * n if config.pure_pass and active is not None else 0
    return round(layers * layer + refined * refine + convolutions + mask)


def _checked(name: str, scale: int, height: int, width: int, pure: float) -> Config:
    config = config_for(name, scale)
    if height < 1 or width < 1:
        raise ValueError(f"expected a height and width of at least 1, got {height} x {width}")
    if not 0 <= pure <= 1:
        raise ValueError(f"expected a share of pure pixels between 0 and 1, got {pure}")
    if pure and config.pure_pass is None:
        raise ValueError(f"{name} has no mask: expected pure=0, got {pure}")
    return config
