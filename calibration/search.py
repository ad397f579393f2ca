"""The search for a mix of precisions that saves most within a budget of dB.

Each group of layers is measured alone in each precision it may take. That says in which order to
move them, least error per saving first, and predicts how many moves the budget allows (``greedy``).
So many are tried on held-out samples against ground truth, then more or fewer of that order, until
the most that keep the budget are found. The move that breaks it is refused, and the search goes on
with those behind it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import UsageError

from .greedy import (
    Group,
    Mix,
    Move,
    Save,
    Sensitivity,
    cost,
    longest,
    order_moves,
    predicted_moves,
)
from .recipe import LayerPrecision
from .samples import Sample
from .scores import Candidate, Score, Seen, runs, score
from .search_journal import SearchJournal

Make = Callable[[Mix], Candidate]


@dataclass(frozen=True)
class Trial:
    """A mix on the held-out samples: the first ``moves`` of the order without those refused."""

    moves: int
    refused: tuple[Move, ...]
    psnr_drop: float
    """dB of mean PSNR of Y against ground truth, unrounded."""
    psnr: float
    flipped: float | None


@dataclass(frozen=True)
class Found:
    """What a search ends with."""

    chosen: Mix
    """Only groups that left FP32; empty where not even the first move keeps the budget."""
    order: tuple[Move, ...]
    """All moves that are worth anything, least error per saving first."""
    sensitivities: tuple[Sensitivity, ...]
    predicted_moves: int
    """How many moves the added errors allowed."""
    trials: tuple[Trial, ...]
    """In the order they were run."""
    best: Trial
    """That of ``chosen``."""
    refused: tuple[Move, ...]
    """Those that broke the budget where their turn came, and what takes the same groups further."""
    saved: float
    """Share of what all groups together take in FP32."""


@dataclass(frozen=True)
class Step:
    """What is about to be measured."""

    stage: Literal["sensitivity", "trial"]
    name: str
    number: int
    """From 1."""
    of: int | None
    """None: not known before."""
    known: bool
    """Whether the journal has it."""


def search(
    make: Make,
    groups: Sequence[Group],
    held_in: Sequence[Sample],
    held_out: Sequence[Sample],
    budget_db: float,
    *,
    save: Save = "time",
    journal: Path | None = None,
    identity: str = "",
    on_step: Callable[[Step], None] = lambda _step: None,
) -> Found:
    """Find the mix that saves most while mean PSNR of Y on ``held_out`` drops by ``budget_db``.

    ``make`` turns a mix into a candidate, the empty mix into the network in FP32; each is closed
    after it ran. ``identity`` names the network and its ranges: with it and the samples the journal
    knows its own scores. The same arguments give the same result, with or without a journal, and
    however often the search was stopped on the way. Raises UsageError for a wrong budget, groups or
    samples, or a file that is no journal.
    """
    _check(groups, held_in, held_out, budget_db)
    book = SearchJournal(journal, _identity(identity, held_in, held_out))
    inside = _Bench("held in", make, held_in, book)
    outside = _Bench("held out", make, held_out, book)

    alone = [(group, precision) for group in groups for precision in group.precisions]
    of = 1 + len(alone)
    on_step(Step("sensitivity", "fp32", 1, of, inside.knows({})))
    base = inside.score({})
    scores: dict[Move, Score] = {}
    for number, (group, precision) in enumerate(alone, 2):
        mix: Mix = {group.name: precision}
        name = f"{group.name} in {precision}"
        on_step(Step("sensitivity", name, number, of, inside.knows(mix)))
        scores[group.name, precision] = inside.score(mix)
    sensitivities = tuple(
        _sensitivity(group, precision, scores[group.name, precision], base, save)
        for group, precision in alone
    )
    order = order_moves(sensitivities)
    predicted = predicted_moves(order, scores, base, budget_db)
    trials: list[Trial] = []
    best = Trial(0, (), 0.0, math.inf, None)
    refused: tuple[Move, ...] = ()

    def holds(moves: int) -> bool:
        nonlocal best
        mix = _mix(order[:moves], refused)
        name = f"{moves} of {len(order)} moves"
        on_step(Step("trial", name, 1 + len(trials), None, outside.knows(mix)))
        found, truth = outside.score(mix), outside.score({})
        drop = truth.mean_psnr_y - found.mean_psnr_y
        trials.append(Trial(moves, refused, drop, found.psnr, found.flipped))
        if drop <= budget_db:
            best = trials[-1]
        return drop <= budget_db

    done, guess = 0, predicted
    while (done := longest(holds, guess, len(order), least=done)) < len(order):
        breaking = order[done][0]
        refused += tuple(move for move in order[done:] if move[0] == breaking)
        done, guess = done + 1, done + 2
    chosen = _mix(order, refused)
    by_name = {group.name: group for group in groups}
    saved = sum(by_name[name].saving(to, save) for name, to in chosen.items())
    return Found(
        chosen=chosen,
        order=tuple(order),
        sensitivities=sensitivities,
        predicted_moves=predicted,
        trials=tuple(trials),
        best=best,
        refused=refused,
        saved=saved / sum(group.whole(save) for group in groups),
    )


def _mix(moves: Sequence[Move], refused: Sequence[Move]) -> Mix:
    return dict(move for move in moves if move not in refused)


class _Bench:
    """Measures mixes on one list of samples, each of them once."""

    def __init__(
        self, name: str, make: Make, samples: Sequence[Sample], journal: SearchJournal
    ) -> None:
        self._name, self._make, self._samples, self._journal = name, make, samples, journal
        self._reference: list[Seen] = []

    def knows(self, mix: Mix) -> bool:
        return self._key(mix) in self._journal

    def score(self, mix: Mix) -> Score:
        known = self._journal.get(self._key(mix), len(self._samples))
        if known is None:
            if not self._reference:
                self._reference = list(runs(self._make({}), self._samples))
            seen = runs(self._make(mix), self._samples) if mix else self._reference
            known = score(self._samples, seen, self._reference)
            self._journal.add(self._key(mix), known)
        return known

    def _key(self, mix: Mix) -> str:
        moves = " ".join(f"{name}={to}" for name, to in sorted(mix.items()))
        return f"{self._name}: {moves or 'fp32'}"


def _sensitivity(
    group: Group, precision: LayerPrecision, found: Score, base: Score, save: Save
) -> Sensitivity:
    return Sensitivity(
        group=group.name,
        precision=precision,
        saving=group.saving(precision, save),
        error=cost(found, base) / base.mean_error,
        psnr=found.psnr,
        psnr_drop=10 * math.log10(found.mean_error / base.mean_error),
        flipped=found.flipped,
    )


def _check(
    groups: Sequence[Group], held_in: Sequence[Sample], held_out: Sequence[Sample], budget: float
) -> None:
    if not (math.isfinite(budget) and budget >= 0):
        raise UsageError(f"expected a PSNR drop of 0 dB or more, got {budget:g}")
    if not groups or len({group.name for group in groups}) < len(groups):
        raise UsageError("expected groups of layers, each under a name of its own")
    if not held_in or not held_out:
        raise UsageError("expected samples to search with and others to hold out, got none")
    if both := {one.name for one in held_in} & {one.name for one in held_out}:
        raise UsageError(f"expected other samples to hold out, got {min(both)} in both")


def _identity(identity: str, *samples: Sequence[Sample]) -> str:
    """Name what scores are of: the caller's words, and every pixel of the samples."""
    told = [[(s.name, _digest(s.lr), _digest(s.hr)) for s in some] for some in samples]
    return hashlib.sha256(json.dumps([identity, told]).encode()).hexdigest()


def _digest(pixels: npt.NDArray[np.uint8]) -> tuple[tuple[int, ...], str]:
    return pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest()
