from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ppsr.calibration.crops import Crop
from ppsr.models.flops import multiply_adds, paper_flops
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime.bench.break_even import break_even
from ppsr.runtime.bench.masks import SHARES, bin_of, choose_by_share, made_mask
from ppsr.runtime.bench.models import Model
from ppsr.runtime.bench.shares import Curve, Point, measure_curve
from ppsr.runtime.bench.timing import Sample, Timing
from ppsr.runtime.upscaler import Upscaler


def crop(pure: float) -> Crop:
    return Crop(np.zeros((16, 16, 3), np.uint8), "p", 0, 0, pure)


def models(fake: Callable, form: str = "routed") -> tuple[Model, Model]:
    backends = fake(form=form), fake(form=form, model="atd-light")
    first, second = (Model("", name, Upscaler(b)) for name, b in zip("md", backends, strict=True))
    return first, second


def test_bins_are_tenths_and_the_last_holds_1() -> None:
    assert [bin_of(share) for share in (0, 0.09, 0.1, 0.55, 0.9, 1)] == [0, 0, 1, 5, 9, 9]


def test_up_to_two_crops_of_each_bin_are_taken() -> None:
    crops = [crop(share) for share in (0.0, 0.02, 0.04, 0.075, 0.09, 0.5, 1.0, 1.0, 1.0)]
    chosen = {at: [one.pure for one in found] for at, found in choose_by_share(crops).items()}
    assert chosen == {0: [0.02, 0.075], 5: [0.5], 9: [1.0, 1.0]}


@pytest.mark.parametrize("share", SHARES)
def test_made_masks_have_the_share_and_are_whole_windows(share: float) -> None:
    mask = made_mask((80, 160), share)
    assert mask.shape == (80, 160)
    assert mask.mean() == pytest.approx(share, abs=0.5 * 64 / mask.size)
    windows = mask.reshape(10, 8, 20, 8)
    assert (windows.all((1, 3)) == windows.any((1, 3))).all()


def test_made_masks_are_the_same_again_and_hold_each_other() -> None:
    small, large = made_mask((64, 64), 0.3), made_mask((64, 64), 0.6)
    assert (made_mask((64, 64), 0.3) == small).all()
    assert large[small].all()
    assert (made_mask((64, 64), 0.3, seed=1) != small).any()
    with pytest.raises(ValueError, match="multiples of 8, got 60 x 64"):
        made_mask((60, 64), 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        made_mask((64, 64), 1.1)


def test_a_curve_has_real_crops_and_made_masks(photo: Callable, fake: Callable) -> None:
    model, dense = models(fake)
    rgb = photo("coffee", 40, 48)
    curve = measure_curve(model, dense, [Crop(rgb, "coffee", 3, 5, 0.4)], 2)
    assert [point.picture for point in curve.real] == ["coffee 5,3"]
    assert [point.share for point in curve.synthetic] == pytest.approx(SHARES, abs=0.05)
    fed = [len(feed["active"]) for feed in model.upscaler.backend.feeds[-33:]]  # type: ignore[attr-defined]
    tokens = [48 * 48 - int(made_mask((48, 48), share).sum()) for share in SHARES]
    assert fed == [*tokens, *tokens, *tokens[1:], tokens[0]]
    assert curve.real[0].share == purity_mask(rgb).mean()
    middle = curve.synthetic[5]
    assert len(middle.masked.samples) == len(middle.dense.samples) == 2
    assert all(sample.milliseconds > (sample.routing or 0) > 0 for sample in middle.masked.samples)
    papers = [paper_flops(name, 2, 40, 48, share) for name, share in
              (("pp-atd-light", middle.share), ("atd-light", 0))]  # fmt: skip
    assert middle.saving_paper == 1 - papers[0] / papers[1]
    counted = [multiply_adds("pp-atd-light", 2, 40, 48, tokens[5]),
               multiply_adds("atd-light", 2, 40, 48)]  # fmt: skip
    assert middle.saving_multiply_adds == 1 - counted[0] / counted[1]
    assert curve.break_even is not None


def test_a_model_that_finds_its_own_mask_has_no_line(photo: Callable, fake: Callable) -> None:
    curve = measure_curve(*models(fake, "self-contained"), [Crop(photo(), "a", 0, 0, 0.4)], 1)
    assert len(curve.real) == 1
    assert (curve.synthetic, curve.break_even) == ((), None)


def test_break_even_of_a_known_line() -> None:
    found = break_even([0, 0.5, 1], [-0.1, 0.0, 0.1])
    assert (found.verdict, found.share) == ("from", pytest.approx(0.5))
    assert (found.intercept, found.slope) == (pytest.approx(-0.1), pytest.approx(0.2))
    found = break_even(SHARES, [0.2 * share - 0.05 for share in SHARES])
    assert found.share == pytest.approx(0.25)
    assert found.likely == pytest.approx((0.25, 0.25))
    assert (
        "faster below 25.0 % of pure pixels (90 % of resampled lines cross 0 from 25.0 to 25.0 %)"
        in (found.sentence)
    )


@pytest.mark.parametrize(
    ("savings", "verdict", "words"),
    [
        ([0.0, 0.2], "always", "never slower"),
        ([0.1, 0.3], "always", "never slower"),
        ([0.3, 0.1], "always", "never slower"),
        ([-0.3, -0.1], "never", "never faster"),
        ([-0.3, 0.0], "never", "never faster"),
        ([0.1, -0.1], "below", "dense is faster above 50.0 %"),
    ],
)
def test_break_even_may_lie_nowhere(savings: list[float], verdict: str, words: str) -> None:
    found = break_even([0, 1], savings)
    assert found.verdict == verdict
    assert words in found.sentence
    assert (found.share is None) == (verdict in ("always", "never"))


def test_never_slower_may_be_chance() -> None:
    noise = [0.04 * (-1) ** at for at in range(11)]
    found = break_even(SHARES, [0.01 + 0.2 * a + b for a, b in zip(SHARES, noise, strict=True)])
    assert found.verdict == "always"
    assert found.likely is not None
    assert found.likely[0] < 0 < found.likely[1] < 0.5
    assert "(90 % of resampled lines cross 0 from 0.0 to" in found.sentence


def test_a_machine_that_is_not_steady_is_named() -> None:
    def curve(*dense: float) -> Curve:
        one = Timing((Sample(10),))
        return Curve("m", (), tuple(Point("p", (8, 8), 0, one, Timing((Sample(ms),)), 0, 0)
                                    for ms in dense))  # fmt: skip

    assert curve(100, 101, 102, 103, 5000).unsteady is None
    assert curve().unsteady is None
    assert "dense took 100 to 150 ms" in (curve(100, 100, 120, 150, 150).unsteady or "")


def test_scattered_points_are_called_so() -> None:
    found = break_even(SHARES, [0.1, -0.2, 0.2, -0.1, 0.1, -0.3, 0.2, -0.1, 0.2, -0.2, 0.3])
    assert found.likely is None
    assert "too scattered" in found.sentence
    with pytest.raises(ValueError, match="two shares or more"):
        break_even([0.5, 0.5], [0, 1])
