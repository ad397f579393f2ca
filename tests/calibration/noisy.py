"""A network that is not there: each group adds noise that is known, to a picture made larger."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.calibration.greedy import Mix
from ppsr.calibration.photo import sample_photo
from ppsr.calibration.samples import Sample
from ppsr.calibration.scores import Candidate
from ppsr.models.config import PurePass
from ppsr.models.errors import PpsrError
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT, Artefact
from ppsr.runtime.backend import Arrays, Closing
from ppsr.runtime.imresize import degrade

SCALE = 2
ROUTED = Artefact("pp-atd-light", SCALE, "routed", "fp32", 20, "7" * 64, "", PurePass())
DENSE = Artefact("atd-light", SCALE, "routed", "fp32", 20, "7" * 64, "")


def samples(*names: str, top: int = 0) -> list[Sample]:
    """Crops of the sample photo, of odd sizes, with their ground truth."""
    found = []
    for number, name in enumerate(names):
        at = top + 40 * number
        lr, hr = degrade(sample_photo()[at : at + 58 + 4 * number, at : at + 74], SCALE)
        found.append(Sample(name, lr, hr))
    return found


@dataclass
class Network:
    """Makes candidates; ``noise`` is the amplitude of each group in each precision."""

    noise: Mapping[tuple[str, str], float]
    shared: Mapping[str, str] = field(default_factory=dict)
    """Groups whose noise is that of another one: they do not add up."""
    artefact: Artefact = DENSE
    made: list[dict[str, str]] = field(default_factory=list)
    stop_at: int | None = None
    """Number of the candidate whose run is interrupted, from 1."""

    def make(self, mix: Mix) -> Candidate:
        self.made.append(dict(mix))
        return Candidate(Noisy(self, dict(mix), len(self.made)), ("categories",))


class Noisy(Closing):
    """One candidate: nearest neighbour, and noise of the same pattern in every run."""

    device = "CPU"
    profiles = ()

    def __init__(self, network: Network, mix: Mapping[str, str], number: int) -> None:
        self._network, self._mix, self._number = network, mix, number
        self.artefact = network.artefact
        self.wants_active = self.artefact.takes_active
        self.fed: list[Arrays] = []
        self.closed = 0

    def run(self, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
        if self.closed:
            raise PpsrError("this model is closed")
        if self._number == self._network.stop_at:
            raise KeyboardInterrupt
        self.fed.append(feed)
        image = feed[INPUT]
        output = image.repeat(SCALE, 2).repeat(SCALE, 3).astype(np.float64)
        for group, precision in self._mix.items():
            pattern = self._network.shared.get(group, group)
            seed = zlib.crc32(pattern.encode() + image.tobytes())
            noise = np.random.default_rng(seed).standard_normal(output.shape)
            output += self._network.noise[group, precision] * noise
        categories = (image[0, 0] * 63).astype(np.int64).reshape(1, -1)
        for index in range(len(self._mix)):
            categories[0, index::16] += 1  # A sixteenth of the tokens for each move.
        return {OUTPUT: output.astype(np.float32), "categories": categories}

    def close(self) -> None:
        self.closed += 1


def tokens_of(feed: Arrays) -> npt.NDArray[np.int64]:
    """The tokens that take part in category attention."""
    active: npt.NDArray[np.int64] = feed.get(ACTIVE, np.arange(feed[INPUT][0, 0].size))
    return active
