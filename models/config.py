"""The hyper-parameters of ATD-light, of Pure-Pass and of CAMixer-ATD-light, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from . import pure_pass

ModelName = Literal["pp-atd-light", "atd-light", "camixer-atd-light", "adaformer"]
MODEL_NAMES: Final[tuple[ModelName, ...]] = get_args(ModelName)
SCALES: Final = (2, 3, 4)


@dataclass(frozen=True)
class PurePass:
    """Which pixels skip category attention, and what they get instead (arXiv 2510.01997).

    Raises ValueError for settings that ``pure_pass.require_routing`` refuses.
    """

    window: int = pure_pass.WINDOW
    shift: int = pure_pass.SHIFT
    """Cross-shift fusion (eq. 6 and 7); 0 switches it off (the paper's table 3)."""
    compensation: bool = True
    """Pure pixels take the window attention's output (eq. 17); False gives zeros (table 4)."""
    centres: tuple[tuple[int, int, int], ...] = field(
        default=tuple(tuple(row) for row in pure_pass.CENTRES.tolist()), repr=False
    )
    """Colour centres in units of 9/800: 1 to 255 of them, each channel from 0 to 88."""

    def __post_init__(self) -> None:
        pure_pass.require_routing(self.window, self.shift, self.centres)
        if type(self.compensation) is not bool:
            raise ValueError(f"expected compensation True or False, got {self.compensation!r}")

    def mask(self, padded: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """``pure_pixels`` with these settings. uint8 H W 3, multiples of 16 -> bool H W."""
        return pure_pass.pure_pixels(
            padded, window=self.window, shift=self.shift, centres=self.centre_array
        )

    @property
    def centre_array(self) -> npt.NDArray[np.int32]:
        return np.array(self.centres, dtype=np.int32)


@dataclass(frozen=True)
class Config:
    """One network. The defaults are ATD-light v1 (official options 101 to 103)."""

    scale: int = 2
    channels: int = 48
    depths: tuple[int, ...] = (6, 6, 6, 6)
    heads: int = 4
    window: int = 16
    group: int = 128
    """Tokens that attend to each other in category attention (official: category_size)."""
    dictionary: int = 64
    """Entries of the token dictionary (official: num_tokens)."""
    reduced: int = 8
    """Width of the dictionary similarity (official: reducted_dim)."""
    hidden: int = 48
    """Width of the feed-forward network (official: mlp_ratio 1)."""
    kernel: int = 7
    """Depth-wise kernel of the feed-forward network."""
    pure_pass: PurePass | None = None
    """None: every token attends (ATD-light)."""
    ratio: float | None = None
    """Share of the windows that attend, in (0, 1] (CAMixer); None: all of them, by SW-MSA."""

    def __post_init__(self) -> None:
        if type(self.scale) is not int or self.scale not in SCALES:
            scales = ", ".join(map(str, SCALES))
            raise ValueError(f"expected a scale of {scales}, got {self.scale!r}")
        if self.ratio is None:
            return
        if self.pure_pass:
            raise ValueError("expected a ratio or pure_pass, got both")
        if type(self.ratio) is not float or not 0 < self.ratio <= 1:
            raise ValueError(f"expected a ratio above 0 and up to 1, got {self.ratio!r}")

    blocks: ClassVar[None] = None

    @property
    def name(self) -> ModelName:
        if self.ratio is not None:
            return "camixer-atd-light"
        return "pp-atd-light" if self.pure_pass else "atd-light"


class Configuration(Protocol):
    """What the rest of the project asks of any network's hyper-parameters."""

    @property
    def name(self) -> ModelName:
        """Of the network."""

    @property
    def scale(self) -> int:
        """How many times larger the output is."""

    @property
    def pure_pass(self) -> PurePass | None:
        """How the picture says which tokens are active; None: it does not."""

    @property
    def ratio(self) -> float | None:
        """Share of the windows that attend; None: the network has no such number."""

    @property
    def blocks(self) -> int | None:
        """Attention blocks that tokens leave one after another; None: there is no such exit."""
