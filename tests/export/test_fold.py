"""Rewrites before the trace: the folded network computes what the published one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from skimage import data

from ppsr.export.biases import carry_projection_biases
from ppsr.export.cosine import NormedDictionaryAttention
from ppsr.export.fold import HEAD_WIDTH, PointwiseFeedForward, fold, fold_norms, widen_heads
from ppsr.models import build
from ppsr.models.atd import ATD, Layer
from ppsr.models.config import PurePass


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Flat and busy parts; the shifted windows join its edges."""
    photo = torch.from_numpy(data.astronaut()[64:112, 200:264].copy())
    return photo.permute(2, 0, 1).unsqueeze(0).double() / 255


@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_the_folded_network_computes_the_same(name: str, image: torch.Tensor) -> None:
    network = build(name, 2, dtype=torch.float64)
    folded = fold(network)
    with torch.no_grad():
        wanted, got = network(image), folded(image)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
        assert not torch.equal(got, wanted), "it rounds elsewhere: nothing was folded"


@pytest.mark.parametrize("active", [0, 1, 100, 3072])
def test_masks_hold_in_the_widened_heads(active: int, image: torch.Tensor) -> None:
    network = build("pp-atd-light", 2, dtype=torch.float64)
    tokens = torch.arange(3072)[:active]
    with torch.no_grad():
        wanted, got = (one.upscale(image, tokens) for one in (network, fold(network)))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_biases_stay_where_nothing_can_carry_them() -> None:
    """Heads without a spare channel."""
    layer = _layer(build("pp-atd-light", 2))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    carry_projection_biases(layer)
    after = layer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_original_stays_as_it_was(image: torch.Tensor) -> None:
    network = build("pp-atd-light", 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold(network)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def _layer(network: ATD) -> Layer:
    return next(module for module in network.modules() if isinstance(module, Layer))


def test_every_head_is_wide_and_no_norm_scales() -> None:
    folded = _layer(fold(build("pp-atd-light", 2)))
    assert folded.wqkv.out_features == 3 * 4 * HEAD_WIDTH
    for linear in (folded.attn_win.proj, folded.attn_aca.proj, folded.attn_atd.wv):
        assert linear.bias is None
    assert folded.attn_win.proj.in_features == folded.attn_aca.proj.in_features == 4 * HEAD_WIDTH
    assert isinstance(folded.convffn, PointwiseFeedForward)
    assert folded.attn_win.scale == 1
    assert (folded.norm3.bias == 0).all()
    for norm in (folded.norm1, folded.norm2):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_without_compensation_the_values_bias_comes_once(image: torch.Tensor) -> None:
    bare = PurePass(compensation=False)
    network = build("pp-atd-light", 2, dtype=torch.float64, pure_pass=bare)
    with torch.no_grad():
        wanted, got = network(image), fold(network)(image)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
        for layer in _layers(network):  # The two kinds differ by half of this bias.
            layer.attn_atd.wv.bias += 1
        assert (network(image) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_cosines_are_those_of_the_published_attention(first: bool) -> None:
    """Rows of zeros too, and rows as short as 0.01, whose cosines epsilon leaves alone."""
    original = _layer(build("pp-atd-light", 2, dtype=torch.float64)).attn_atd
    x, dictionary = torch.randn(2, 1, 64, 48, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        original.wq.bias.zero_()
        original.wk.bias.zero_()
        x[:, 3] = dictionary[:, 5] = 0
        x[:, 4] *= 0.01 / original.wq(x[:, 4]).norm()
        dictionary[:, 6] *= 0.01 / original.wk(dictionary[:, 6]).norm()
        wanted = original(x, dictionary)
        folded = NormedDictionaryAttention(original, first)
        for ours, theirs in zip(folded(x, dictionary), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)
        folded.scale *= 1.001
        assert (folded(x, dictionary)[1] - wanted[1]).abs().max() > 1e-4


def test_a_head_is_never_narrowed() -> None:
    with pytest.raises(ValueError, match="at least 12, got 8"):
        widen_heads(_layer(build("pp-atd-light", 2)), 8)


def _layers(network: ATD) -> list[Layer]:
    return [module for module in network.modules() if isinstance(module, Layer)]


def _shift_value(layer: Layer) -> None:
    layer.attn_atd.wv.bias.data[0] += 0.01


def _shift_projection(layer: Layer) -> None:
    layer.attn_aca.proj.bias.data[0] += 0.01


def _shift_query(layer: Layer) -> None:
    layer.attn_atd.wq.bias.data[0] += 0.1


def _shift_window_query(layer: Layer) -> None:
    layer.wqkv.bias.data[0] += 0.1


def _flatten_refinement(layer: Layer) -> None:
    layer.norm3.weight.data *= 0.9


def _drop_bias(layer: Layer) -> None:
    layer.norm1.bias.data.zero_()
    fold_norms(layer)


def _halve_factor(layer: Layer) -> None:
    layer.attn_aca.softmax.query_scale /= 2


SPOILT = [
    *(_drop_bias, _halve_factor, _shift_value, _shift_projection),
    *(_shift_query, _shift_window_query, _flatten_refinement),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_the_comparison_bites(spoil: Callable[[Layer], None], image: torch.Tensor) -> None:
    network = build("pp-atd-light", 2, dtype=torch.float64)
    folded = fold(network)
    spoil(_layer(network))
    with torch.no_grad():
        assert (network(image) - folded(image)).abs().max() > 1e-6
