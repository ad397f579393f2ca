"""What CAMixer costs in place of SW-MSA, in multiply-adds: as Pure-Pass counts, and as it runs."""

from __future__ import annotations

from fractions import Fraction

from .config import Config

OVERHEAD = 2400
"""Per pixel and layer, of the predictor and the convolutions together. It is what is left of the
published 83.67 and 73.48 G (Pure-Pass, table 2) once all that is known is taken off; itemised they
are 1,763, and 2,382 as the official code of CAMixer counts them."""


def rounded_share(count: int, ratio: float) -> int:
    """Return ``ratio`` of ``count``, a half rounded upwards.

    Exact, the ratio being read as a fraction. count may be symbolic, as it is in a trace.
    """
    share = Fraction(ratio).limit_denominator(10**6)
    return (2 * share.numerator * count + share.denominator) // (2 * share.denominator)


def camixer_paper_flops(config: Config, pixels: int) -> float:
    """Return what one layer's CAMixer costs as the paper counts, in place of SW-MSA.

    pixels: of the low-resolution picture. Attention follows the ratio, the projection does not.
    Raises ValueError for a configuration without a ratio.
    """
    c = config.channels
    return float((2 * config.window**2 * _ratio(config) + c) * c * pixels + OVERHEAD * pixels)


def camixer_multiply_adds(config: Config, pixels: int) -> dict[str, int]:
    """Return the true multiply-adds of one layer's CAMixer, item by item, without ``wqkv``.

    pixels: of the padded picture, a multiple of the window's. Warping is no product of matrices and
    is not counted. Raises ValueError for a configuration without a ratio.
    """
    c, length = config.channels, config.window**2
    windows = pixels // length
    hard = max(1, rounded_share(windows, _ratio(config))) * length
    features, narrow = (c + 4) // 4, (c + 4) // 8
    return {
        "predictor": (c + 4) * features * pixels,
        "offsets": (features * narrow + narrow * 2) * pixels,
        "mask": (length * config.window + config.window * 2) * windows,
        "per channel": features * c,
        "per pixel": 9 * features * pixels,
        "attention": 2 * length * c * hard,
        "convolutions": 2 * 9 * c * pixels,
        "projection": c * c * pixels,
    }


def global_predictor_multiply_adds(config: Config, pixels: int) -> int:
    """Return the multiply-adds of the two channels that all layers of a network share."""
    return (config.channels * 8 + 9 * 8 * 2) * pixels


def _ratio(config: Config) -> float:
    if config.ratio is None:
        raise ValueError(f"{config.name} has no CAMixer: expected a ratio, got None")
    return config.ratio
