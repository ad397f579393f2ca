"""What one picture costs AdaFormer, in multiply-adds: as it counts itself, and as it runs here.

Both take what each block keeps, as shares by block (``AdaFormer.halting`` measures them); without
them nothing halts. The official count leaves out the confidence estimator, counts queries, keys and
values of halted tokens, and the projection of the 16 prototypes as if it were one of all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .adaformer_config import AdaFormerConfig
from .pure_pass import GRID

Shares = Sequence[float]


def adaformer_paper_flops(
    config: AdaFormerConfig,
    height: int,
    width: int,
    tokens: Shares | None = None,
    windows: Shares | None = None,
) -> float:
    """Return the multiply-adds as the official ``flops()`` counts them (a number, not G).

    height, width: of the low-resolution picture; the attention blocks count it padded to multiples
    of the window, as there. tokens, windows: the share of each that every block keeps. (The
    official code charges a block for what the *next* one keeps; here each is charged for its own.)
    Raises ValueError for a size below 1, or shares that are not one per block in [0, 1].
    """
    tokens, windows = _checked(config, height, width, tokens, windows)
    c, n, w = config.channels, height * width, config.window
    convolutions = 27 * c + 9 * c * c * 2 * config.resblocks + 27 * c * config.scale**2
    padded = (math.ceil(height / w) * w) * (math.ceil(width / w) * w)
    norms = 2 * c
    dense = norms + (3 + 3 + 2 + 2 * config.mlp_ratio) * c * c
    local = sum(windows) * 2 * w**2 * c
    across = sum(tokens) * 4 * config.prototypes * c
    body = 2 * c * c + config.blocks * dense + local + across
    return float(n * convolutions + padded * body + config.blocks * config.prototypes * c)


def adaformer_multiply_adds(
    config: AdaFormerConfig,
    height: int,
    width: int,
    tokens: Shares | None = None,
    windows: Shares | None = None,
) -> int:
    """Return the true multiply-adds of every matrix product and convolution of one forward.

    The picture is padded to multiples of 16. tokens, windows: the share of each that every block
    of the sparse form computes; without them that of the dense form, whatever halts. Raises as
    ``adaformer_paper_flops``.
    """
    tokens, windows = _checked(config, height, width, tokens, windows)
    c, p, scale = config.channels, config.prototypes, config.scale
    n = (math.ceil(height / GRID) * GRID) * (math.ceil(width / GRID) * GRID)
    mean = 9 + 9 * scale**2
    convolutions = mean + 27 * c + 18 * c * c * config.resblocks + 27 * c * scale**2 + 2 * c * c
    estimator = (config.blocks - 1) * 9 * (c * (c // 2) + c // 2)
    feed_forward = config.blocks * 2 * config.mlp_ratio * c * c
    local = sum(windows) * (3 * c * c + 2 * config.window**2 * c)
    across = sum(tokens) * (3 * c * c + 4 * p * c)
    prototypes = config.blocks * 3 * p * c * c
    return round(n * (convolutions + estimator + feed_forward + local + across) + prototypes)


def _checked(
    config: AdaFormerConfig, height: int, width: int, tokens: Shares | None, windows: Shares | None
) -> tuple[Shares, Shares]:
    if height < 1 or width < 1:
        raise ValueError(f"expected a height and width of at least 1, got {height} x {width}")
    everything = (1.0,) * config.blocks
    tokens = everything if tokens is None else tokens
    windows = everything if windows is None else windows
    for shares in (tokens, windows):
        if len(shares) != config.blocks or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"expected {config.blocks} shares between 0 and 1, one per block, got {shares}"
            )
    return tokens, windows
