"""Ranges of what a backend shows: the same in any order, one picture in memory at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from ppsr.calibration.collect import collect, observe
from ppsr.calibration.estimators import ESTIMATORS, Histogram, estimate
from ppsr.calibration.photo import sample_photo
from ppsr.models.config import PurePass
from ppsr.models.errors import PpsrError, UsageError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, purity_mask
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.feed import feed_for
from ppsr.runtime.upscaler import Upscaler

Rgb = npt.NDArray[np.uint8]
SHA = "a" * 64
TENSORS = {"first/input": "input", "first/output": "doubled", "second/input": "doubled"}
MASKED = {**TENSORS, "masked/input": "tokens"}


class Watched:
    """A routed model whose insides show: twice the picture, and its active tokens."""

    device = "CPU"
    profiles = ()

    def __init__(self, pure_pass: PurePass | None = PurePass()) -> None:  # noqa: B008 (frozen)
        self.artefact = Artefact(
            "pp-atd-light" if pure_pass else "atd-light",
            2,
            "routed",
            "fp32",
            20,
            "0" * 64,
            "0",
            pure_pass,
        )
        self.wants_active = self.artefact.takes_active
        self.feeds: list[dict[str, npt.NDArray[Any]]] = []

    def run(self, feed: Any) -> dict[str, npt.NDArray[Any]]:
        self.feeds.append(dict(feed))
        image = feed["input"]
        found = {
            "output": image.repeat(2, 2).repeat(2, 3),
            "input": image,
            "doubled": 1 - 2 * image,
        }
        if "active" in feed:
            found["tokens"] = 5 * image.reshape(3, -1)[:, feed["active"]]
        return found

    def close(self) -> None:
        pass


def pictures() -> list[Rgb]:
    """Mixed sizes, odd ones, a constant and a black one, one smaller than the grid."""
    photo = sample_photo()
    return [
        photo[100:137, 10:60],
        photo[:64, 200:296],
        np.full((20, 33, 3), (200, 10, 90), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.ascontiguousarray(data.astronaut()[::9, ::7]),
        photo[30:35, 40:49],
    ]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ranges_are_those_of_all_values_in_any_order(estimator: str) -> None:
    found = collect(Watched(), MASKED, pictures(), estimator, SHA)
    assert (found.graph_sha256, found.estimator, found.images) == (SHA, estimator, 6)
    assert list(found.amax) == list(MASKED)
    assert collect(Watched(), MASKED, pictures()[::-1], estimator, SHA) == found

    together = {name: Histogram() for name in ("input", "doubled", "tokens")}
    for rgb in pictures():
        floats = pad_to_grid(rgb).astype(np.float32) / np.float32(255)
        pure = purity_mask(pad_to_grid(rgb))
        together["input"].add(floats)
        together["doubled"].add(1 - 2 * floats)
        together["tokens"].add(5 * floats[~pure])
    expected = {site: estimate(together[name], estimator) for site, name in MASKED.items()}
    assert found.amax == expected


def test_layers_behind_the_mask_are_seen_through_it() -> None:
    """A bright pure square beside dark detail: what is masked must not see the bright."""
    rgb = np.full((32, 64, 3), 255, np.uint8)
    rgb[:, 32:] = np.random.default_rng(0).integers(0, 60, (32, 32, 3))
    found = collect(Watched(), MASKED, [rgb], "minmax", SHA)
    assert found.amax["first/input"] == 1
    active = active_tokens(purity_mask(rgb))
    assert 0 < len(active) < 64 * 32
    brightest = rgb.reshape(-1, 3)[active].max() / 255
    assert brightest < 0.5
    assert found.amax["masked/input"] == pytest.approx(5 * brightest, rel=1e-6)


@pytest.mark.parametrize("pure_pass", [None, PurePass(), PurePass(window=4, shift=0)])
@pytest.mark.parametrize("size", [(37, 50), (16, 32), (5, 7)])
def test_a_model_is_fed_as_pictures_are_upscaled(
    pure_pass: PurePass | None, size: tuple[int, int]
) -> None:
    rgb = sample_photo()[100 : 100 + size[0], 10 : 10 + size[1]]
    backend = Watched(pure_pass)
    Upscaler(backend)(rgb)
    observe(backend, ["doubled"], [rgb])
    upscaled, observed = backend.feeds
    assert observed.keys() == upscaled.keys() == feed_for(backend.artefact, rgb).keys()
    for name, values in upscaled.items():
        np.testing.assert_array_equal(observed[name], values)
        assert observed[name].dtype == values.dtype


def test_pictures_come_one_by_one_and_are_let_go() -> None:
    made: list[weakref.ref[Rgb]] = []
    most, told = 0, []

    def stream() -> Iterator[Rgb]:
        nonlocal most
        for number in range(12):
            gc.collect()
            most = max(most, sum(one() is not None for one in made))
            rgb = np.full((64, 64, 3), number, np.uint8)
            made.append(weakref.ref(rgb))
            yield rgb
            del rgb

    histograms, images = observe(Watched(), ["input"], stream(), on_picture=told.append)
    assert images == 12
    assert told == list(range(1, 13))
    assert most == 1
    assert histograms["input"].values == 12 * 3 * 64 * 64


def test_a_single_picture_is_enough() -> None:
    found = collect(Watched(), MASKED, [sample_photo()[100:137, 10:60]], "mse", SHA)
    assert found.images == 1
    assert all(amax > 0 for amax in found.amax.values())


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_flat_picture_gives_ranges_of_what_it_reaches(level: int, estimator: str) -> None:
    flat = np.full((30, 40, 3), level, np.uint8)
    found = collect(Watched(), TENSORS, [flat], estimator, SHA)
    assert found.amax == pytest.approx({site: 1.0 for site in TENSORS}, rel=2 / 1000)
    with pytest.raises(UsageError) as caught:
        collect(Watched(), MASKED, [flat, flat], estimator, SHA)
    assert str(caught.value) == (
        "no value reached 1 of 4 sites, such as masked/input: all pictures are pure, nothing gets "
        "past the mask; calibrate with pictures of some detail"
    )


def test_no_picture_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least one picture to take ranges from, got none"):
        collect(Watched(), TENSORS, [], "mse", SHA)


def test_an_unknown_estimator_is_an_error() -> None:
    with pytest.raises(UsageError, match="got 'kl'"):
        collect(Watched(), TENSORS, pictures()[:1], "kl", SHA)


def test_a_tensor_that_does_not_come_is_named() -> None:
    with pytest.raises(PpsrError, match="to return the tensor hidden; watch it"):
        collect(Watched(), {"x/input": "hidden"}, pictures(), "mse", SHA)


def test_values_that_are_no_numbers_are_named() -> None:
    class Broken(Watched):
        def run(self, feed: Any) -> dict[str, npt.NDArray[Any]]:
            found = super().run(feed)
            if len(self.feeds) == 2:
                found["doubled"] = np.full_like(found["doubled"], np.nan)
            return found

    with pytest.raises(PpsrError, match="tensor doubled on picture 2: expected finite values"):
        collect(Broken(), TENSORS, pictures(), "mse", SHA)
