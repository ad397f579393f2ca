"""One tile through the model: what it is fed, what comes back, and what that took."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import PpsrError
from ppsr.models.pure_pass import active_tokens, pure_mask
from ppsr.models.registry import MODELS

from .artefact import ACTIVE, ATTENDED, INPUT, OUTPUT
from .backend import ROUTING, Backend
from .canvas import Floats
from .routing import Mask

Pure = npt.NDArray[np.bool_]


class Ran(NamedTuple):
    """What the model made of one tile."""

    pixels: Floats
    """S*H S*W 3."""
    pure: Pure | None
    """Its mask; None for a model without Pure-Pass."""
    attended: npt.NDArray[np.int32] | None
    """H W: how many blocks attended to each pixel; None where the model does not say."""


class Runner:
    """Runs the tiles of one picture and adds up their time, in milliseconds."""

    def __init__(self, backend: Backend) -> None:
        self.milliseconds = 0.0
        """The model and routing, wherever it is done; no padding, conversion or blending."""
        self.routing: float | None = None
        if MODELS[backend.artefact.model].routing == "none":
            self.routing = 0.0
        """The part of it spent on routing; None where the graph routes itself, unknown."""
        self._backend = backend

    def mask(self, mask: Mask, top: int, bottom: int) -> Pure:
        """Rows of the mask. Counted as time where the model is told the active tokens."""
        start = time.perf_counter()
        pure = mask.rows(top, bottom)
        if self._backend.artefact.takes_active:
            took = _milliseconds_since(start)
            self.milliseconds += took
            self._add_routing(took)
        return pure

    def run(self, tile: Floats, pure: Pure | None) -> Ran:
        """Enlarge one tile: H W 3 and its mask.

        ``pure`` is None where the model finds its own mask, which is returned, or has none. Raises
        PpsrError where the model fails.
        """
        artefact = self._backend.artefact
        feed: dict[str, Any] = {INPUT: np.ascontiguousarray(tile.transpose(2, 0, 1)[None])}
        start = time.perf_counter()
        if pure is not None and artefact.takes_active:
            feed[ACTIVE] = active_tokens(pure)
            self._add_routing(_milliseconds_since(start))
        outputs = self._backend.run(feed)
        self.milliseconds += _milliseconds_since(start)
        if ROUTING in outputs:
            self._add_routing(float(outputs[ROUTING]))
            pure = pure_mask(outputs[ACTIVE], tile.shape[:2])
        elif pure is None and artefact.pure_pass:
            pure = artefact.pure_pass.mask(np.rint(tile * 255).astype(np.uint8))
        output, attended = outputs[OUTPUT], outputs.get(ATTENDED)
        expected = (1, 3, *(artefact.scale * size for size in tile.shape[:2]))
        if output.shape != expected:
            raise PpsrError(
                f"the model returned {output.shape}, expected {expected}; export it again"
            )
        pixels = output[0].astype(np.float32, copy=False).transpose(1, 2, 0)
        return Ran(pixels, pure, None if attended is None else attended[0, 0])

    def _add_routing(self, milliseconds: float) -> None:
        self.routing = (self.routing or 0.0) + milliseconds


def _milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
