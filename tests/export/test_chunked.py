"""Attention in chunks: the rewritten network computes what the published one does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from skimage import data
from torch import Tensor, nn

from ppsr.export.chunked import (
    ChunkedAttention,
    ChunkedCategoryAttention,
    ChunkedWindowAttention,
    border_last,
    padded,
)
from ppsr.export.cpu_layer import ChunkedLayer, TokenFeedForward, fold_for_cpu
from ppsr.export.tuning import RECIPES
from ppsr.models import build
from ppsr.models.atd import ATD, Layer
from ppsr.models.attention import shifted_windows
from ppsr.models.config import PurePass
from ppsr.runtime.artefact import Tuning

RUNTIMES = pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
"""One window or group in a chunk, and 4 and 8, with the biases of q, k and v in a norm."""


@pytest.fixture(scope="module")
def published() -> Callable[..., ATD]:
    """``published(name, pure_pass=...)``: a float64 network of its own for each caller."""

    def make(name: str = "pp-atd-light", **options: object) -> ATD:
        return build(name, 2, dtype=torch.float64, **options)

    return make


def image(height: int, width: int) -> Tensor:
    """Flat and busy parts; the shifted windows join its edges."""
    photo = torch.from_numpy(data.astronaut()[64 : 64 + height, 200 : 200 + width].copy())
    return photo.permute(2, 0, 1).unsqueeze(0).double() / 255


def fold_for(runtime: Tuning, network: ATD) -> ATD:
    folded = RECIPES[runtime].fold(network)
    assert isinstance(folded, ATD)
    return folded


def layers(network: ATD) -> list[Layer]:
    return [module for module in network.modules() if isinstance(module, Layer)]


@pytest.fixture(scope="module")
def first_layers(network: Callable[..., ATD]) -> ATD:
    """2 of 24, in float64."""
    return copy.deepcopy(network()).double()


@torch.no_grad()
@RUNTIMES
@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_the_folded_network_computes_the_same(
    published: Callable, name: str, runtime: Tuning
) -> None:
    """5 windows, 10 groups: the last chunks are not full."""
    network = published(name)
    wanted, got = (one(image(16, 80)) for one in (network, fold_for(runtime, network)))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    assert not torch.equal(got, wanted), "it rounds elsewhere: nothing was folded"


@torch.no_grad()
@RUNTIMES
@pytest.mark.parametrize("size", [(16, 16), (48, 48), (64, 112), (37, 50)])
def test_any_size(first_layers: ATD, size: tuple[int, int], runtime: Tuning) -> None:
    """1, 9, 28 and, padded, 12 windows."""
    folded = fold_for(runtime, first_layers)
    wanted, got = (one(image(*size)) for one in (first_layers, folded))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


@torch.no_grad()
@RUNTIMES
def test_every_number_of_active_tokens(first_layers: ATD, runtime: Tuning) -> None:
    """Of 1280: none, one group that is not full, one that is, ten of them."""
    network, picture = first_layers, image(16, 80)
    folded = fold_for(runtime, network)
    order = torch.randperm(1280, generator=torch.Generator().manual_seed(0))
    for count in (0, 1, 100, 127, 128, 129, 1280):
        active = order[:count].sort().values
        wanted, got = (one.upscale(picture, active) for one in (network, folded))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9, msg=f"{count} active tokens")


@torch.no_grad()
@RUNTIMES
@pytest.mark.parametrize("compensation", [False, True])
def test_what_biases_carry_is_not_lost(
    published: Callable, runtime: Tuning, compensation: bool
) -> None:
    """Large ones, a factor beyond its bound; pure tokens with compensation and without."""
    network = published(pure_pass=PurePass(compensation=compensation))
    before, picture = network(image(16, 32)), image(16, 32)
    for layer in layers(network):
        layer.wqkv.bias.add_(torch.linspace(-1, 1, len(layer.wqkv.bias)))
        layer.attn_win.proj.bias.add_(torch.linspace(1, -1, 48))
        layer.attn_aca.proj.bias.add_(torch.linspace(-1, 1, 48))
        layer.attn_aca.logit_scale.fill_(7)  # exp(7) is cut off at 100.
    active = torch.arange(0, 512, 3)
    wanted, got = (one.upscale(picture, active) for one in (network, fold_for(runtime, network)))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    assert (wanted - before).abs().max() > 1e-3


def test_the_original_stays_as_it_was() -> None:
    network = build("pp-atd-light", 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    fold_for_cpu(network, 4, 8)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [type(module) for module in network.modules()] == kinds


def test_every_layer_is_rewritten() -> None:
    folded = layers(fold_for_cpu(build("pp-atd-light", 2), 4, 8))
    assert len(folded) == 24
    for layer in folded:
        assert isinstance(layer, ChunkedLayer)
        assert isinstance(layer.convffn, TokenFeedForward)
        assert isinstance(layer.attn_win, ChunkedWindowAttention)
        assert isinstance(layer.attn_aca, ChunkedCategoryAttention)
        assert (layer.attn_win.chunk, layer.attn_aca.chunk) == (4, 8)
        assert not hasattr(layer, "wqkv")
        assert (layer.norm1.weight == 1).all()
        assert (layer.norm1.bias == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attn_win", "attn_aca"])
@pytest.mark.parametrize("weight", ["q", "k", "v", "bias", "proj.weight", "proj.bias"])
def test_a_weight_changed_by_a_hundredth_is_noticed(
    first_layers: ATD, kind: str, weight: str
) -> None:
    picture = image(16, 32)
    folded, wanted = fold_for_cpu(first_layers, 4, 8), first_layers(picture)
    torch.testing.assert_close(folded(picture), wanted, rtol=0, atol=1e-9)
    attention = getattr(layers(folded)[0], kind).attention
    attention.get_parameter(weight).mul_(1.01)
    assert (folded(picture) - wanted).abs().max() > 1e-8


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attn_win", "attn_aca"])
@pytest.mark.parametrize("weight", ["q", "v"])
def test_biases_that_others_carry_are_noticed(first_layers: ATD, kind: str, weight: str) -> None:
    """The last channel of what norm1 makes is 1; its weights are biases.

    Those of the values hold what either projection's bias has more than the other's.
    """
    picture = image(16, 32)
    folded, wanted = fold_for("onnxruntime", first_layers), first_layers(picture)
    layer = layers(folded)[0]
    assert (layer.norm1(torch.randn(5, 48).double())[:, -1] == 1).all()
    attention = getattr(layer, kind).attention
    assert attention.bias is None
    assert attention.proj.bias is None
    attention.get_parameter(weight)[-1].mul_(1.01)
    assert (folded(picture) - wanted).abs().max() > 1e-8


@torch.no_grad()
def test_projections_biases_in_the_dictionary_are_noticed(first_layers: ATD) -> None:
    picture = image(16, 32)
    folded, wanted = fold_for("onnxruntime", first_layers), first_layers(picture)
    torch.testing.assert_close(folded(picture), wanted, rtol=0, atol=1e-9)
    layers(folded)[0].attn_atd.wv.bias.mul_(1.01)
    assert (folded(picture) - wanted).abs().max() > 1e-8


def test_only_shifted_windows_have_codes(network: Callable) -> None:
    for layer in layers(fold_for_cpu(network())):
        assert layer.attn_aca.attention.codes == 0
        assert layer.attn_win.attention.codes == (4 if layer.shifted else 0)


@torch.no_grad()
def test_codes_are_cut_behind_the_channels_of_each_head(network: Callable) -> None:
    attention = layers(fold_for_cpu(network()))[1].attn_win.attention
    codes = torch.arange(1.0, 6).reshape(5, 1, 1, 1).expand(5, 1, 3, 4)
    cut = attention.in_chunks(codes, 4)
    assert cut.shape == (2, 4, 3, 64)
    heads = cut.unflatten(-1, (4, 16))
    assert heads[:, :, 0, 3, 12].flatten().tolist() == [1, 2, 3, 4, 5, 5, 5, 5]
    assert (heads[..., 12:] != 0).all()
    assert (heads[..., :12] == 0).all()


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (64, 16), (48, 80)])
def test_windows_at_the_border_come_last(size: tuple[int, int]) -> None:
    """Windows that begin with tokens from the other end; what each token is told stays the same."""
    height, width = size
    before = shifted_windows(height, width, 16, torch.zeros(()))
    after, border = border_last(before)
    assert after.border is border
    tokens = after.order.reshape(-1, 256)
    apart = [bool(one[0] != one.min()) for one in tokens]
    assert border.tolist() == apart == sorted(apart)
    assert border.sum() == height // 16 + width // 16 - 1
    assert after.order[after.rank].tolist() == [*range(height * width)]
    for old, new in ((before.query, after.query), (before.key, after.key)):
        assert torch.equal(old.reshape(-1, 4)[before.rank], new.reshape(-1, 4)[after.rank])
    mask = (after.query @ after.key.transpose(-2, -1)).flatten(1)
    assert (mask != 0).any(1).tolist() == apart


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (6, 10), (16, 48)])
def test_the_feed_forward_on_rows_of_tokens(published: Callable, size: tuple[int, int]) -> None:
    original = layers(published())[0].convffn
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, size[0] * size[1], 48, generator=random, dtype=torch.float64)
    wanted, ours = original(x, size), TokenFeedForward(original)
    torch.testing.assert_close(ours(x, size), wanted, rtol=0, atol=1e-12)
    if size[0] != size[1]:
        assert (ours(x, size[::-1]) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("length", "multiple", "wanted"),
    [
        (3, 1, [5, 6, 7]),
        (3, 4, [5, 6, 7, 7]),
        (4, 4, [5, 6, 7, 8]),
        (1, 8, [5] * 8),
        (5, 4, [5, 6, 7, 8, 9, 9, 9, 9]),
    ],
)
def test_padded(length: int, multiple: int, wanted: list[int]) -> None:
    index = torch.arange(5, 5 + length)
    assert padded(index, multiple).tolist() == wanted
    assert index.tolist() == [*range(5, 5 + length)]


@torch.no_grad()
def test_attention_is_softmax_of_its_logits() -> None:
    """Against torch's own attention, with the bias of the keys that was left out."""
    random = torch.Generator().manual_seed(0)
    wqkv, proj = nn.Linear(48, 144).double(), nn.Linear(48, 48).double()
    attention = ChunkedAttention(wqkv, proj, 4, 0.5)
    x = torch.randn(6, 20, 48, generator=random, dtype=torch.float64)
    bias = torch.randn(1, 4, 20, 20, generator=random, dtype=torch.float64)
    q, k, v = wqkv(x).reshape(6, 20, 3, 4, 12).permute(2, 0, 3, 1, 4)
    y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=0.5)
    wanted = proj(y.transpose(1, 2).reshape(-1, 48))
    torch.testing.assert_close(attention.attend(x, bias), wanted, rtol=0, atol=1e-12)
    got = attention(x.unflatten(0, (2, 3)), bias)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
