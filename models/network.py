"""What every network of this project is, to export, training and the backend on torch."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from .routing import PurityMask

Form = Literal["dense", "sparse"]


class Network(nn.Module):
    """A network: pictures in, larger ones out. Subclasses set ``config``, ``scale``, ``purity``.

    Called with N 3 H W in [0, 1], any H and W from 8 up, it returns N 3 S*H S*W, not clamped.

    Rounding decides discrete choices that are nearly tied, so two correct runs can differ. To let
    an export be proved all the same (docs/parity.md), each is made in a module without parameters,
    a child named ``choose`` of what asks for it. Its ``forward`` is one of two, and may be replaced
    by a hook: (score, limit) -> bool, True where the score is below the limit; or (score B N) ->
    int64 B k, the k largest. The categories of tokens are the one choice made elsewhere.
    """

    config: Any
    """Its hyper-parameters, a ``config.Configuration``; each network knows its own more closely."""
    scale: int
    purity: PurityMask | None
    """Finds the active tokens from the picture; None: the picture does not say them."""
    weights_sha256: str = ""
    """Of the weights that ``build`` put into it."""
    form: Form | None = None
    """Whether what is skipped is computed and masked, or left out: the shapes of the second depend
    on features, which engines do not take. None: there is one form."""

    def upscale(self, image: Tensor, active: Tensor | None) -> Tensor:
        """N 3 H W, H and W multiples of 16 -> N 3 S*H S*W; active: None where purity is None."""
        raise NotImplementedError

    def outputs(self, image: Tensor, active: Tensor | None) -> tuple[Tensor, ...]:
        """Return what a graph does: the output of ``upscale``, and where ``config.blocks`` is a
        number, int32 N 1 H W: how many of these blocks attend to each token.
        """
        return (self.upscale(image, active),)

    def training_forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of a batch and what its loss needs beside it (``training.losses``).

        Only of networks whose loss is more than L1.
        """
        raise NotImplementedError
