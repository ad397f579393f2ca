"""The search keeps its budget, finds what brute force finds, and survives being stopped."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from ppsr.calibration.greedy import Group, cost
from ppsr.calibration.scores import runs, score
from ppsr.calibration.search import Found, Step, search
from ppsr.models.errors import UsageError

NAMES = ("quiet", "soft", "loud", "shrill")
GROUPS = [
    Group(name, ("fp16", "int8"), 10.0 * (3 + number), 100 * (7 - number))
    for number, name in enumerate(NAMES)
]
NOISE = {
    (name, to): amplitude * share
    for name, amplitude in zip(NAMES, (0.0005, 0.002, 0.006, 0.03), strict=True)
    for to, share in (("fp16", 0.1), ("int8", 1.0))
}
BUDGET = 0.05


@pytest.fixture(scope="module")
def pictures(noisy: Any) -> tuple[list[Any], list[Any]]:
    return noisy.samples("a", "b", top=30), noisy.samples("c", "d", top=150)


def drop_of(network: Any, mix: Any, samples: list[Any]) -> float:
    """Measured without the search."""
    base = list(runs(network.make({}), samples))
    found = score(samples, runs(network.make(mix), samples), base)
    return score(samples, base, base).mean_psnr_y - found.mean_psnr_y


def saved_by(mix: Any, save: Any = "time") -> float:
    groups = {group.name: group for group in GROUPS}
    return sum(groups[name].saving(to, save) for name, to in mix.items())


def test_what_it_says_is_what_is_measured(noisy: Any, pictures: Any) -> None:
    network = noisy.Network(NOISE, artefact=noisy.ROUTED)
    found = search(network.make, GROUPS, *pictures, BUDGET)
    assert found.best.psnr_drop == drop_of(network, found.chosen, pictures[1]) <= BUDGET
    assert 0 < found.saved < 1
    assert found.saved == saved_by(found.chosen) / sum(g.multiply_adds for g in GROUPS)
    assert found.chosen == dict(move for move in found.order if move not in found.refused)
    assert [(s.group, s.precision) for s in found.sensitivities] == list(
        product(NAMES, ("fp16", "int8"))
    )
    base = list(runs(network.make({}), pictures[0]))
    truth = score(pictures[0], base, base)
    for one in found.sensitivities:
        alone = score(
            pictures[0], runs(network.make({one.group: one.precision}), pictures[0]), base
        )
        assert one.error == pytest.approx(cost(alone, truth) / truth.mean_error)
        assert one.psnr_drop == pytest.approx(10 * math.log10(sum(alone.error) / sum(truth.error)))
        noise = NOISE[one.group, one.precision]
        # Noise above 1 or below 0 is clamped.
        assert one.psnr == pytest.approx(-20 * math.log10(noise), abs=0.3)
        assert one.flipped is not None
        assert 0 < one.flipped < 0.2
    assert found.best.flipped is not None


@pytest.mark.parametrize("save", ["time", "bytes"])
@pytest.mark.parametrize("budget", [0.0, 0.003, 0.01, 0.05, 0.3, 30.0])
def test_brute_force_saves_at_most_one_move_more(
    noisy: Any, pictures: Any, save: Any, budget: float
) -> None:
    network = noisy.Network(NOISE)
    found = search(network.make, GROUPS, *pictures, budget, save=save)
    after = dict(found.order[: 1 + first_refused(found)])
    best = 0.0
    for picks in product((None, "fp16", "int8"), repeat=4):
        mix = {name: to for name, to in zip(NAMES, picks, strict=True) if to}
        if saved_by(mix, save) > best and drop_of(network, mix, pictures[1]) <= budget:
            best = saved_by(mix, save)
    assert saved_by(found.chosen, save) <= best <= saved_by(after, save)
    if budget in (0.05, 30.0):
        assert saved_by(found.chosen, save) == best


def first_refused(found: Found) -> int:
    """Its place in the order; the length of the order where all moves are kept."""
    return min(map(found.order.index, found.refused), default=len(found.order))


def test_what_is_behind_a_refused_move_is_tried(noisy: Any, pictures: Any) -> None:
    """One group is far worse in a mix than alone; the one behind it still gets in."""
    alone = NOISE | {("loud", "fp16"): 0.003, ("loud", "int8"): 0.003, ("shrill", "fp16"): 0.004}
    gentle, rough = (
        noisy.Network({**alone, ("loud", "fp16"): loud, ("loud", "int8"): loud})
        for loud in (0.003, 0.2)
    )
    found = search(
        lambda mix: (rough if len(mix) > 1 else gentle).make(mix), GROUPS, *pictures, BUDGET
    )
    assert found.order.index(("loud", "int8")) < found.order.index(("shrill", "fp16"))
    assert [name for name, _ in found.refused] == ["loud", "shrill"]
    assert found.chosen == {"quiet": "int8", "soft": "int8", "shrill": "fp16"}
    assert found.best.psnr_drop == drop_of(rough, found.chosen, pictures[1]) <= BUDGET
    assert drop_of(rough, {**found.chosen, "loud": "int8"}, pictures[1]) > BUDGET


def test_a_careful_prediction_is_passed(noisy: Any, pictures: Any) -> None:
    """Noise that is there alone and not in the mix: what was added up was too much."""

    class Vanishing(noisy.Network):
        def make(self, mix: Any) -> Any:
            return super().make(mix if len(mix) == 1 else {})

    found = search(Vanishing(NOISE).make, GROUPS, *pictures, BUDGET)
    assert found.predicted_moves < len(found.order)
    assert found.best.moves == len(found.order)
    assert found.chosen == dict.fromkeys(NAMES, "int8")
    assert found.saved == 0.75


def test_a_careless_prediction_is_taken_back(noisy: Any, pictures: Any) -> None:
    """The same noise in all groups: amplitudes add up, not squares."""
    shared = dict.fromkeys(NAMES, "one")
    network = noisy.Network(dict.fromkeys(NOISE, 0.0025), shared=shared)
    held_in = pictures[0]
    held_out = [replace(one, name=f"{one.name} again") for one in held_in]
    found = search(network.make, GROUPS, held_in, held_out, BUDGET)
    assert found.predicted_moves > first_refused(found) > 0
    assert found.trials[0].psnr_drop > BUDGET >= found.best.psnr_drop
    too_much = {**found.chosen, **dict(found.refused[:1])}
    assert drop_of(network, too_much, held_out) > BUDGET


def test_where_nothing_fits_nothing_is_chosen(noisy: Any, pictures: Any) -> None:
    network = noisy.Network(dict.fromkeys(NOISE, 0.2))
    found = search(network.make, GROUPS, *pictures, BUDGET)
    assert (found.chosen, found.saved, found.best.psnr_drop) == ({}, 0.0, 0.0)
    assert min(trial.psnr_drop for trial in found.trials) > BUDGET


def test_the_held_out_samples_decide(noisy: Any, pictures: Any) -> None:
    """They have other errors than those that sensitivities come from."""
    inside, outside = pictures
    network = noisy.Network(NOISE)
    drops = []
    for held_in, held_out in ((inside, outside), (outside, inside)):
        found = search(network.make, GROUPS, held_in, held_out, BUDGET)
        drops.append(found.best.psnr_drop)
        assert drops[-1] == drop_of(network, found.chosen, held_out)
    assert drops[0] != drops[1]


def stopped(network: Any, pictures: Any, path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(network.make, GROUPS, *pictures, BUDGET, journal=path)


def test_stopped_at_every_step_it_ends_the_same(noisy: Any, pictures: Any, tmp_path: Path) -> None:
    whole = noisy.Network(NOISE)
    expected = search(whole.make, GROUPS, *pictures, BUDGET)
    assert len(whole.made) > 10
    path = tmp_path / "journal.json"
    measured: list[dict[str, str]] = []
    # Every restart makes FP32 again, then what is next; it is stopped at the one after that.
    for _ in range(len(whole.made)):
        part = noisy.Network(NOISE, stop_at=3)
        try:
            found = search(part.make, GROUPS, *pictures, BUDGET, journal=path)
        except KeyboardInterrupt:
            measured += [mix for mix in part.made[:2] if mix]
            assert len(part.made) == 3
        else:
            measured += [mix for mix in part.made if mix]
            break
    assert found == expected
    assert measured == [mix for mix in whole.made if mix]
    silent = noisy.Network(NOISE)
    assert search(silent.make, GROUPS, *pictures, BUDGET, journal=path) == expected
    assert silent.made == []


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import noisy
import test_search as t

class Killed(noisy.Network):
    def make(self, mix):
        if len(self.made) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(mix)

pictures = noisy.samples("a", "b", top=30), noisy.samples("c", "d", top=150)
t.search(Killed(t.NOISE).make, t.GROUPS, *pictures, t.BUDGET, journal=Path(sys.argv[2]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_it_ends_the_same(noisy: Any, pictures: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", SCRIPT, here, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    network = noisy.Network(NOISE)
    found = search(network.make, GROUPS, *pictures, BUDGET, journal=path)
    assert found == search(noisy.Network(NOISE).make, GROUPS, *pictures, BUDGET)
    whole = noisy.Network(NOISE)
    search(whole.make, GROUPS, *pictures, BUDGET)
    # FP32 once more, but not the four that were measured before the kill.
    assert len(network.made) == len(whole.made) - 4


def test_what_the_journal_says_is_believed(noisy: Any, pictures: Any, tmp_path: Path) -> None:
    """Only if it is really read can a changed score change the end."""
    path = tmp_path / "journal.json"
    before = search(noisy.Network(NOISE).make, GROUPS, *pictures, BUDGET, journal=path)
    content = json.loads(path.read_text())
    (scores,) = content["searches"].values()
    scores["held in: shrill=fp16"]["noise"] = [1e-12, 1e-12]
    path.write_text(json.dumps(content))
    after = search(noisy.Network(NOISE).make, GROUPS, *pictures, BUDGET, journal=path)
    assert before.order[0] != ("shrill", "fp16")
    assert after.order[0] == ("shrill", "fp16")


@pytest.mark.parametrize("what", ["ranges", "a pixel", "a name", "the other way round"])
def test_scores_of_something_else_are_not_used(
    noisy: Any, pictures: Any, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "journal.json"
    held_in, held_out = pictures
    first = search(noisy.Network(NOISE).make, GROUPS, held_in, held_out, BUDGET, journal=path)
    identity = "other" if what == "ranges" else ""
    if what == "a pixel":
        lr = held_in[0].lr.copy()
        lr[0, 0, 0] ^= 1
        held_in = [replace(held_in[0], lr=lr), *held_in[1:]]
    if what == "a name":
        held_in = [replace(held_in[0], name="z"), *held_in[1:]]
    if what == "the other way round":
        held_in, held_out = held_out, held_in
    fresh, known = noisy.Network(NOISE), noisy.Network(NOISE)
    options: Any = {"identity": identity}
    other = search(fresh.make, GROUPS, held_in, held_out, BUDGET, **options)
    kept = search(known.make, GROUPS, held_in, held_out, BUDGET, journal=path, **options)
    assert kept == other
    assert known.made == fresh.made
    # The first search's scores are still there.
    silent = noisy.Network(NOISE)
    assert search(silent.make, GROUPS, *pictures, BUDGET, journal=path) == first
    assert silent.made == []


def test_another_budget_measures_trials_only(noisy: Any, pictures: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    search(noisy.Network(NOISE).make, GROUPS, *pictures, BUDGET, journal=path)
    network = noisy.Network(NOISE)
    found = search(network.make, GROUPS, *pictures, 0.3, journal=path, save="bytes")
    assert all(len(mix) != 1 for mix in network.made)
    assert found == search(noisy.Network(NOISE).make, GROUPS, *pictures, 0.3, save="bytes")


GARBLED = {
    "no JSON": b"{",
    "no text": b"\xff\xff",
    "another file": b'{"amax": {}}',
    "no searches": b'{"format": "ppsr search journal 1"}',
    "a list": b'{"format": "ppsr search journal 1", "searches": {"a": []}}',
    "empty": b"",
}


@pytest.mark.parametrize("name", GARBLED)
def test_what_is_no_journal_is_refused_and_left(
    noisy: Any, pictures: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(GARBLED[name])
    network = noisy.Network(NOISE)
    with pytest.raises(UsageError, match="is no journal of a search; remove it, or name another"):
        search(network.make, GROUPS, *pictures, BUDGET, journal=path)
    assert network.made == []
    assert path.read_bytes() == GARBLED[name]


@pytest.mark.parametrize(
    "wrong",
    [{"psnr_y": "x"}, {"psnr_y": None}, {"noise": [None, 1]}, {"noise": [1.0]}, {"error": [0, 0]}],
)
def test_a_garbled_score_is_refused(
    noisy: Any, pictures: Any, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    path = tmp_path / "journal.json"
    search(noisy.Network(NOISE).make, GROUPS, *pictures, BUDGET, journal=path)
    content = json.loads(path.read_text())
    (scores,) = content["searches"].values()
    scores["held in: loud=int8"] |= wrong
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is no journal of a search"):
        search(noisy.Network(NOISE).make, GROUPS, *pictures, BUDGET, journal=path)


def test_a_journal_that_cannot_be_written_is_told_before_anything_runs(
    noisy: Any, pictures: Any, tmp_path: Path
) -> None:
    network = noisy.Network(NOISE)
    with pytest.raises(UsageError, match=r"the folder .* does not exist"):
        search(network.make, GROUPS, *pictures, BUDGET, journal=tmp_path / "no" / "j.json")
    assert network.made == []


def test_every_step_is_told_before_it_is_taken(noisy: Any, pictures: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"

    def watched(network: Any) -> tuple[Found, list[Step]]:
        steps: list[Step] = []
        found = search(network.make, GROUPS, *pictures, BUDGET, journal=path, on_step=steps.append)
        return found, steps

    stopped(noisy.Network(NOISE, stop_at=4), pictures, path)
    found, steps = watched(noisy.Network(NOISE))
    measured = [step for step in steps if step.stage == "sensitivity"]
    assert [step.number for step in measured] == list(range(1, 10))
    assert {step.of for step in measured} == {9}
    assert [step.name for step in measured][:3] == ["fp32", "quiet in fp16", "quiet in int8"]
    assert [step.known for step in measured] == [True] * 3 + [False] * 6
    tried = [step for step in steps if step.stage == "trial"]
    assert [step.number for step in tried] == list(range(1, len(found.trials) + 1))
    assert not any(step.known for step in tried)
    again, steps = watched(noisy.Network(NOISE))
    assert again == found
    assert all(step.known for step in steps)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget_db": -0.1}, "a PSNR drop of 0 dB or more, got -0.1"),
        ({"budget_db": math.nan}, "0 dB or more, got nan"),
        ({"groups": []}, "groups of layers"),
        ({"groups": [GROUPS[0], GROUPS[0]]}, "each under a name of its own"),
        ({"held_in": []}, "samples to search with"),
        ({"held_out": []}, "others to hold out"),
        ({"held_out": "held_in"}, "other samples to hold out, got a in both"),
    ],
)
def test_wrong_arguments(noisy: Any, pictures: Any, change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"groups": GROUPS, "budget_db": 0.05}
    arguments |= {"held_in": pictures[0], "held_out": pictures[1]} | change
    if arguments["held_out"] == "held_in":
        arguments["held_out"] = pictures[0]
    with pytest.raises(UsageError, match=words):
        search(noisy.Network(NOISE).make, **arguments)


def test_mean_is_over_pictures(noisy: Any, pictures: Any) -> None:
    """Not over pixels: the drop is that of the mean PSNR."""
    network = noisy.Network(NOISE)
    found = search(network.make, GROUPS, *pictures, BUDGET)
    each = [drop_of(network, found.chosen, [sample]) for sample in pictures[1]]
    assert found.best.psnr_drop == pytest.approx(fmean(each))
    assert not np.isclose(*each)
