"""Token early exit: which tokens and windows a block still attends to, and what to compare it with.

AdaFormer eq. 18, 19 and 22. After every block an estimator gives each token a confidence in (0, 1);
the sum R of a token's confidences is its score. The global branch leaves a token out from
R >= 1 - eps_h on, the local branch a window whose mean of R reaches it. Scores only grow: what
halted stays halted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .adaformer_layout import cut


class Kept(NamedTuple):
    """What a block attends to. Tokens are laid out by windows: W windows of L tokens."""

    tokens: Tensor
    """bool N W L: for the global branch."""
    windows: Tensor
    """bool N W: for the local branch."""


class ChooseTokens(nn.Module):
    """Whose score is below the limit is kept. Used for tokens and for windows.

    Alone in its scope: the check of an export reads the choice there, and imposes another.
    """

    def forward(self, score: Tensor, limit: float) -> Tensor:
        """score: B ..., any shape -> bool of that shape, True = kept."""
        return score < limit


class TokenExit(nn.Module):
    """Eq. 22. The choice is the child ``choose``."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.choose = ChooseTokens()

    def forward(self, score: Tensor) -> Tensor:
        """score: N W L -> bool N W L."""
        kept: Tensor = self.choose(score, self.limit)
        return kept


class WindowExit(TokenExit):
    """Eq. 19, on the mean of a window. The choice is the child ``choose``."""

    def forward(self, score: Tensor) -> Tensor:
        """score: N W L -> bool N W."""
        return super().forward(score.mean(-1))


class Exit(nn.Module):
    """Both decisions before one block. It owns no parameters."""

    def __init__(self, threshold: float, window: int) -> None:
        super().__init__()
        self.window = window
        self.tokens = TokenExit(1 - threshold)
        self.windows = WindowExit(1 - threshold)

    def forward(self, confidence: Tensor, score: Tensor | None) -> tuple[Kept, Tensor]:
        """Add a block's confidence to the score (eq. 18), and decide.

        confidence: N 1 H W; score: N W L, or None after the first block -> and the new score.
        """
        found = cut(confidence, self.window).squeeze(-1)
        score = found if score is None else score + found
        return Kept(self.tokens(score), self.windows(score)), score


class ExitRule(Protocol):
    """Replaces the learnt exit at evaluation (the paper's table 4)."""

    def __call__(self, block: int, like: Tensor) -> Kept | None:
        """Say what ``block``, counted from 0, attends to; None: to everything.

        like: N W L C, the tokens. What a block does not keep, no later block may keep.
        """
        ...


@dataclass(frozen=True)
class NoExit:
    """Every block attends to everything."""

    def __call__(self, block: int, like: Tensor) -> Kept | None:
        return None


@dataclass(frozen=True)
class UniformExit:
    """Every token and window exits after the same block. Raises ValueError for ``after`` < 1."""

    after: int
    """Blocks that attend, from 1 up."""

    def __post_init__(self) -> None:
        if self.after < 1:
            raise ValueError(f"expected an exit after 1 block or more, got {self.after}")

    def __call__(self, block: int, like: Tensor) -> Kept | None:
        if block < self.after:
            return None
        nobody = torch.zeros(like.shape[:3], dtype=torch.bool, device=like.device)
        return Kept(nobody, nobody[..., 0])


@dataclass(frozen=True)
class RandomExit:
    """A share of the tokens and of the windows is kept, at random, the same in every picture.

    Give what a learnt exit keeps (``AdaFormer.halting``) to compare at equal cost. Raises
    ValueError for a share outside [0, 1] or one that grows from block to block.
    """

    tokens: tuple[float, ...]
    """Share of the tokens that each block keeps; the last holds for all blocks after it."""
    windows: tuple[float, ...]
    """The same for windows."""
    seed: int = 0

    def __post_init__(self) -> None:
        for shares in (self.tokens, self.windows):
            falling = all(a >= b for a, b in pairwise(shares))
            if not shares or not falling or not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"expected shares from 1 down to 0 that never grow, got {shares}")

    def __call__(self, block: int, like: Tensor) -> Kept | None:
        batch, windows, length = like.shape[:3]
        draw = torch.Generator().manual_seed(self.seed)
        tokens = _lowest(torch.randperm(windows * length, generator=draw), self.tokens, block)
        places = _lowest(torch.randperm(windows, generator=draw), self.windows, block)
        return Kept(
            tokens.reshape(1, windows, length).expand(batch, -1, -1).to(like.device),
            places.expand(batch, -1).to(like.device),
        )


def _lowest(order: Tensor, shares: Sequence[float], block: int) -> Tensor:
    """Mark the lowest of a permutation: as the share falls, what is kept stays within what was."""
    return order < round(shares[min(block, len(shares) - 1)] * len(order))


class Halting(NamedTuple):
    """What every block attended to in some pictures, the first block (all of it) included."""

    tokens: list[Tensor]
    """By block: bool N H W, True = kept by the global branch."""
    windows: list[Tensor]
    """By block: bool N H W, True = in a window that the local branch keeps."""
    token_shares: list[float]
    """By block: share of the tokens kept, of the padded pictures: what the network computes."""
    window_shares: list[float]
    """The same for windows."""
