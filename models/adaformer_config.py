"""The hyper-parameters of AdaFormer, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .config import SCALES


@dataclass(frozen=True)
class AdaFormerConfig:
    """One network. The defaults are those of the official run.sh and option.py.

    Raises ValueError for a scale other than 2, 3 and 4, a threshold outside [0, 1), or an odd
    number of residual blocks.
    """

    scale: int = 4
    channels: int = 64
    resblocks: int = 16
    """Residual blocks of convolutions, half of them before the attention, half after it."""
    blocks: int = 6
    """Attention blocks (official: pspl_depths); a token may exit after each of them."""
    heads: int = 4
    window: int = 8
    prototypes: int = 16
    """Texture prototypes, through which the global branch sees the picture (query_num)."""
    mlp_ratio: int = 2
    threshold: float = 0.05
    """eps_h of eq. 19 and 22: a token exits once its summed confidence reaches 1 - threshold."""

    name: ClassVar[Literal["adaformer"]] = "adaformer"
    pure_pass: ClassVar[None] = None
    """No routing by the image: what exits is decided from features."""
    ratio: ClassVar[None] = None

    def __post_init__(self) -> None:
        if type(self.scale) is not int or self.scale not in SCALES:
            expected = ", ".join(map(str, SCALES))
            raise ValueError(f"expected a scale of {expected}, got {self.scale!r}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"expected a threshold from 0 to below 1, got {self.threshold!r}")
        if self.resblocks % 2:
            raise ValueError(f"expected an even number of residual blocks, got {self.resblocks}")
