"""The papers' figures to the last digit, and the true cost against torch's own counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ppsr.models import build, paper_flops, purity_mask
from ppsr.models.atd_flops import atd_code_multiply_adds
from ppsr.models.flops import multiply_adds
from ppsr.models.pure_pass import CENTRES
from ppsr.models.registry import config_for

G = 1e9


@pytest.mark.parametrize(
    ("scale", "height", "width", "published"),
    [(2, 360, 640, 348.579053568), (3, 240, 426, 154.684251648), (4, 180, 320, 87.147859968)],
)
@pytest.mark.parametrize("name", ["atd-light", "pp-atd-light"])
def test_dense_figures_are_the_official_ones(name, scale, height, width, published):
    assert paper_flops(name, scale, height, width) / G == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize(("pure", "published"), [(0.3171, 80.75), (0.3889, 79.30), (0.895, 69.09)])
def test_pure_pass_figures_are_the_papers(pure, published):
    assert round(paper_flops("pp-atd-light", 4, 180, 320, pure) / G, 2) == published


def test_saving_is_category_attention_with_its_projection():
    dense, none = (paper_flops("pp-atd-light", 4, 180, 320, pure) for pure in (0, 1))
    assert (dense - none) / G == pytest.approx(20.1720, abs=5e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        ("edsr", 2, 8, 8),
        ("atd-light", 5, 8, 8),
        ("atd-light", 2, 0, 8),
        ("atd-light", 2, 8, -1),
        ("pp-atd-light", 2, 8, 8, 1.01),
        ("pp-atd-light", 2, 8, 8, -0.1),
        ("pp-atd-light", 2, 8, 8, float("nan")),
        ("atd-light", 2, 8, 8, 0.5),
    ],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        paper_flops(*arguments)


def counted(name: str, scale: int, rgb: np.ndarray) -> int:
    """Count with torch, which calls a multiply-add two operations; it needs gradients on."""
    image = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0).float() / 255
    with FlopCounterMode(display=False) as counter:
        build(name, scale, weights=None)(image)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("scale", "size"), [(2, (16, 32)), (3, (17, 30)), (4, (32, 16))])
def test_dense_cost_is_what_torch_counts(photo, scale, size):
    rgb = photo("coffee", *size, 118, 206)
    assert multiply_adds("atd-light", scale, *size) == counted("atd-light", scale, rgb)


def test_routed_cost_is_what_torch_counts(half_pure):
    black = np.zeros((16, 16, 3), dtype=np.uint8)
    few = black.copy()
    few[2, 2] = (0, 255, 0)
    for rgb, wanted in [(half_pure, 1536), (black, 0), (few, 16)]:
        active = int((~purity_mask(rgb)).sum())
        assert active == wanted
        cost = multiply_adds("pp-atd-light", 2, *rgb.shape[:2], active=active)
        assert cost == counted("pp-atd-light", 2, rgb)


def test_full_hd_cost_is_as_measured_on_the_official_network():
    """Measured on the official code; our masks ride on matrix products and add 3 %."""
    for scale, size, official in [
        (2, (360, 640), 375.68),
        (3, (240, 427), 166.05),
        (4, (180, 320), 98.96),
    ]:
        products = multiply_adds("atd-light", scale, *size) / G
        assert 1 <= products / official < 1.035
        codes = atd_code_multiply_adds(config_for("atd-light", scale), *size, None) / G
        assert (products - codes) / official == pytest.approx(1, abs=1e-4)


def test_cost_falls_with_the_active_tokens():
    costs = [multiply_adds("pp-atd-light", 2, 64, 64, active=n) for n in (4096, 2048, 200, 1, 0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 1.2 * costs[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pp-atd-light", 2, 17, 16, 513), "expected 0 to 512 active tokens, got 513"),
        (("pp-atd-light", 2, 17, 16, -1), "expected 0 to 512 active tokens, got -1"),
        (("pp-atd-light", 2, 17, 16, float("nan")), "expected 0 to 512 active tokens, got nan"),
        (("atd-light", 2, 16, 16, 0), "atd-light has no mask: expected active=None, got 0"),
        (("atd-light", 2, 16, 16, 256), "atd-light has no mask: expected active=None, got 256"),
        (("atd-light", 2.0, 16, 16), "expected a scale of 2, 3, 4, got 2.0"),
    ],
)
def test_wrong_numbers_of_active_tokens_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        multiply_adds(*arguments)


def test_no_number_is_the_dense_network():
    sizes = (2, 33, 40)
    assert multiply_adds("pp-atd-light", *sizes) == multiply_adds("atd-light", *sizes)
    assert multiply_adds("pp-atd-light", *sizes, active=48 * 48) > multiply_adds(
        "pp-atd-light", *sizes
    )


def test_routing_costs_less_than_2_percent_of_the_network():
    """Every operation of it, against the multiply-adds of a picture where it saves the most."""
    pixels, centres = 192 * 320, len(CENTRES)
    scores = 3 * centres * pixels
    nearest = centres * pixels
    windows = 2 * 2 * pixels  # The largest and the least label, on both grids.
    indices = 2 * pixels  # Joining the grids, listing what is active.
    network = multiply_adds("pp-atd-light", 2, 180, 320, active=0) - scores
    assert network < multiply_adds("pp-atd-light", 2, 180, 320)
    assert scores + nearest + windows + indices < 0.02 * network
