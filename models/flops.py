"""What one picture costs any network, in multiply-adds: as its paper counts, and as it runs."""

from __future__ import annotations

from .config import Configuration
from .registry import MODELS, config_for


def paper_flops(
    name: str,
    scale: int,
    height: int,
    width: int,
    pure: float = 0.0,
    *,
    ratio: float | None = None,
) -> float:
    """Return the multiply-adds as the network's paper counts them (a number, not G).

    height, width: of the low-resolution picture. pure: share of pure pixels in [0, 1]
    ("pp-atd-light"); ratio: see ``build``. Raises ValueError otherwise.
    """
    config = _checked(name, scale, height, width, ratio)
    if not 0 <= pure <= 1:
        raise ValueError(f"expected a share of pure pixels between 0 and 1, got {pure}")
    if pure and config.pure_pass is None:
        raise ValueError(f"{name} has no mask: expected pure=0, got {pure}")
    return MODELS[config.name].paper_flops(config, height, width, pure)


def multiply_adds(
    name: str,
    scale: int,
    height: int,
    width: int,
    active: int | None = None,
    *,
    ratio: float | None = None,
) -> int:
    """Return the true multiply-adds of every matrix product and convolution of one forward.

    The picture is padded to multiples of 16, as the networks do. active: number of active tokens,
    of the padded picture ("pp-atd-light"). None is the dense network: every token attends and, for
    "pp-atd-light" too, there is no mask to make. Raises ValueError for ``active`` with another
    network or outside 0 to H W of the padded picture, and as ``paper_flops``.
    """
    config = _checked(name, scale, height, width, ratio)
    if active is not None and config.pure_pass is None:
        raise ValueError(f"{name} has no mask: expected active=None, got {active}")
    return MODELS[config.name].multiply_adds(config, height, width, active)


def _checked(name: str, scale: int, height: int, width: int, ratio: float | None) -> Configuration:
    config = config_for(name, scale, ratio=ratio)
    if height < 1 or width < 1:
        raise ValueError(f"expected a height and width of at least 1, got {height} x {width}")
    return config
