"""Scores are what the metrics say of the output that ppsr-run would write."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ppsr.calibration.scores import CEILING, FLOOR, Candidate, Score, runs, score
from ppsr.models.errors import PpsrError
from ppsr.models.pure_pass import pad_to_grid
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT
from ppsr.runtime.metrics import psnr, psnr_y
from ppsr.runtime.runner import Runner
from ppsr.runtime.upscaler import Upscaler

NOISE = {("a", "int8"): 0.01, ("b", "int8"): 0.02}
A, B = {"a": "int8"}, {"b": "int8"}


@pytest.fixture(scope="module")
def samples(noisy: Any) -> list[Any]:
    found: list[Any] = noisy.samples("one", "two")
    assert [one.lr.shape for one in found] == [(29, 37, 3), (31, 37, 3)]
    return found


def scored(samples: list[Any], candidate: Candidate, base: Candidate) -> Score:
    return score(samples, runs(candidate, samples), runs(base, samples))


def test_psnr_is_that_of_the_picture_that_would_be_written(noisy: Any, samples: list[Any]) -> None:
    network = noisy.Network(NOISE)
    base, b = (list(runs(network.make(mix), samples)) for mix in ({}, B))
    found = score(samples, b, base)
    upscaler = Upscaler(network.make(B).backend)
    for i, sample in enumerate(samples):
        written = upscaler(sample.lr)
        assert found.psnr_y[i] == psnr_y(written, sample.hr, noisy.SCALE, rounded=False)
        ours, theirs = b[i].output.astype(float), base[i].output.astype(float)
        assert ours.shape == sample.hr.shape
        assert -10 * math.log10(found.difference[i]) == pytest.approx(psnr(ours, theirs))
        # Rounding adds its own little error, and the border is left out of the headline.
        from_error = 10 * math.log10(255**2 / found.error[i])
        assert from_error == pytest.approx(found.psnr_y[i], abs=0.2)
    assert found.difference == pytest.approx([0.02**2] * 2, rel=0.2)
    weights = np.array([65.481, 128.553, 24.966])
    assert found.noise == pytest.approx([0.02**2 * (weights**2).sum()] * 2, rel=0.2)
    assert found.psnr == pytest.approx(-10 * math.log10(np.mean(found.difference)))
    assert found.mean_psnr_y == pytest.approx(np.mean(found.psnr_y))
    same = score(samples, base, base)
    assert same.psnr == math.inf
    assert same.mean_psnr_y > found.mean_psnr_y


@pytest.mark.parametrize("routed", [True, False])
def test_the_model_is_fed_as_when_it_upscales(noisy: Any, samples: list[Any], routed: bool) -> None:
    artefact = noisy.ROUTED if routed else noisy.DENSE
    network = noisy.Network(NOISE, artefact=artefact)
    ours, theirs = network.make({}), network.make({})
    list(runs(ours, samples))
    for sample in samples:
        padded = pad_to_grid(sample.lr)
        pure = artefact.pure_pass and artefact.pure_pass.mask(padded)
        Runner(theirs.backend).run(padded.astype(np.float32) / np.float32(255), pure)
    for a, b in zip(ours.backend.fed, theirs.backend.fed, strict=True):
        assert set(a) == set(b) == ({INPUT, ACTIVE} if routed else {INPUT})
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_flips_are_counted_among_active_tokens_only(noisy: Any, samples: list[Any]) -> None:
    network = noisy.Network(NOISE, artefact=noisy.ROUTED)
    both = network.make(A | B)
    found = scored(samples, both, network.make({}))
    active = np.concatenate([feed[ACTIVE] for feed in both.backend.fed])
    assert 100 < len(active) < sum(pad_to_grid(one.lr)[..., 0].size for one in samples) - 100
    assert found.flipped == np.isin(active % 16, (0, 1)).mean()
    assert scored(samples, network.make({}), network.make({})).flipped == 0
    dense = noisy.Network(NOISE)
    assert scored(samples, dense.make(A | B), dense.make({})).flipped == 2 / 16


def test_without_categories_no_flips_are_told(noisy: Any, samples: list[Any]) -> None:
    silent = [replace(noisy.Network(NOISE).make(mix), categories=()) for mix in (A, {})]
    assert scored(samples, *silent).flipped is None


def test_what_is_no_number_is_as_bad_as_black(noisy: Any, samples: list[Any]) -> None:
    class Filled(noisy.Noisy):
        def run(self, feed: Any) -> Any:
            got = super().run(feed)
            return {**got, OUTPUT: np.full_like(got[OUTPUT], self.value)}

    def filled(value: float) -> Score:
        network = noisy.Network(NOISE)
        backend = Filled(network, {}, 0)
        backend.value = value
        return scored(samples, Candidate(backend, ("categories",)), network.make({}))

    black, wrong = filled(0.0), filled(math.nan)
    for broken in (wrong, filled(math.inf)):
        assert broken.psnr_y == black.psnr_y
        assert max(broken.psnr_y) < 25  # The photo is dark there.
        assert all(map(math.isfinite, (*broken.error, *broken.noise)))
        assert min(broken.difference) > 1


def test_an_exact_picture_is_as_good_as_one_rounded_to_8_bits(
    noisy: Any, samples: list[Any]
) -> None:
    """A black picture comes out exact: without a floor its PSNR would be inf."""
    black = replace(samples[0], lr=samples[0].lr * 0, hr=samples[0].hr * 0)
    network = noisy.Network(NOISE)
    found = scored([black], network.make({}), network.make({}))
    assert (found.psnr_y, found.error) == ((CEILING,), (FLOOR,))
    assert pytest.approx(58.92, abs=0.01) == CEILING


def test_a_candidate_is_closed_also_when_it_fails(noisy: Any, samples: list[Any]) -> None:
    network = noisy.Network(NOISE, stop_at=2)
    good, bad = network.make({}), network.make({})
    list(runs(good, samples))
    with pytest.raises(KeyboardInterrupt):
        list(runs(bad, samples))
    assert (good.backend.closed, bad.backend.closed) == (1, 1)
    with pytest.raises(PpsrError):
        good.backend.run({})
