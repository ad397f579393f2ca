"""What one picture costs ATD-light and what is built on it, in multiply-adds.

The papers' figure (ATD-light 87.15 G at x4) is the official ``flops()`` on the unpadded picture. It
leaves out the dictionary refinement and most of the last convolution, among others; the count
beside it is what the matrix products and convolutions really do.
"""

from __future__ import annotations

import math

from .camixer_flops import (
    camixer_multiply_adds,
    camixer_paper_flops,
    global_predictor_multiply_adds,
)
from .config import Config
from .pure_pass import GRID


def atd_paper_flops(config: Config, height: int, width: int, pure: float) -> float:
    """Count as ATD, Pure-Pass and its table of CAMixer do.

    pure: share of pure pixels; they are spared AC-MSA including its projection (Pure-Pass, table
    2).
    """
    c, n = config.channels, height * width
    window = float((2 * config.window**2 + c) * c * n)
    if config.ratio is not None:
        window = camixer_paper_flops(config, n)
    dictionary = (2 * config.reduced + config.dictionary) * c * n
    entries = config.dictionary * c * (config.reduced + c)
    category = (2 * config.group + c) * c * n * (1 - pure)
    feed_forward = (2 * config.hidden + config.kernel**2) * c * n
    layer = 3 * c * c * n + window + dictionary + entries + category + feed_forward
    blocks = sum(config.depths) * layer + len(config.depths) * 9 * c * c * n
    return float(blocks + (27 + 1) * c * n + 3 * c * c * n + 27 * c * n)


def atd_multiply_adds(config: Config, height: int, width: int, active: int | None) -> int:
    """Count every matrix product and convolution of one forward; see ``flops.multiply_adds``.

    The picture is padded to multiples of 16, and active tokens to whole groups of 128, as the
    network does. Raises ValueError for ``active`` outside 0 to H W of the padded picture.
    """
    c, d, r = config.channels, config.dictionary, config.reduced
    n, routed, grouped = _tokens(config, height, width, active)
    window = 2 * c * config.window**2 * n + c * c * n
    once = 0
    if config.ratio is not None:
        window = sum(camixer_multiply_adds(config, n).values())
        once = global_predictor_multiply_adds(config, n)
    category = 2 * c * config.group * grouped + c * c * routed
    dictionary = (c * r + r * d + d * c) * n + d * c * (r + c)
    feed_forward = (c * config.hidden * 2 + config.hidden * config.kernel**2) * n
    layer = 3 * c * c * n + window + category + dictionary + feed_forward
    refine = d * n * c
    layers = sum(config.depths)
    refined = layers - len(config.depths)
    convolutions = 9 * n * (3 * c + (len(config.depths) + 1) * c * c + c * 3 * config.scale**2)
    mask = 3 * len(config.pure_pass.centres) * n if config.pure_pass and active is not None else 0
    codes = atd_code_multiply_adds(config, height, width, active)
    return round(layers * layer + codes + refined * refine + convolutions + mask + once)


def atd_code_multiply_adds(config: Config, height: int, width: int, active: int | None) -> int:
    """Count, of ``atd_multiply_adds``, the masks that ride on inner products as extra channels.

    4 in shifted windows, which are every other layer's, 1 in groups of active tokens. The published
    network has none of them: it adds its masks to the logits. Raises as ``atd_multiply_adds``.
    """
    n, _, grouped = _tokens(config, height, width, active)
    windows = 0 if config.ratio is not None else 4 * config.window**2 * n // 2
    groups = 0 if active is None else config.group * grouped
    return sum(config.depths) * config.heads * (windows + groups)


def _tokens(config: Config, height: int, width: int, active: int | None) -> tuple[int, int, int]:
    """All of the padded picture, those that are routed, and the places of their groups."""
    n = (math.ceil(height / GRID) * GRID) * (math.ceil(width / GRID) * GRID)
    if active is not None and not 0 <= active <= n:
        raise ValueError(f"expected 0 to {n} active tokens, got {active}")
    routed = n if active is None else active
    return n, routed, max(1, math.ceil(routed / config.group)) * config.group
