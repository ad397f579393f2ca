"""What a model is fed for one picture in memory, whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.pure_pass import active_tokens, pad_to_grid

from .artefact import ACTIVE, INPUT, Artefact


def feed_for(artefact: Artefact, rgb: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs of a model for a picture uint8 H W 3, as its form wants them.

    The self-contained form takes the picture as it is; the others take it padded, the routed one
    with its active tokens.
    """
    if artefact.form == "self-contained":
        return {INPUT: image_tensor(rgb)}
    padded = pad_to_grid(rgb)
    feed: dict[str, npt.NDArray[Any]] = {INPUT: image_tensor(padded)}
    if artefact.takes_active and artefact.pure_pass:
        feed[ACTIVE] = active_tokens(artefact.pure_pass.mask(padded))
    return feed


def image_tensor(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 H W 3 -> float32 1 3 H W in [0, 1]."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
