"""CAMixer against a plain account of it, window by window; its choice, its warp, its training."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ppsr.export.trace import trace_network
from ppsr.models import paper_flops
from ppsr.models.atd import ATD, Layer
from ppsr.models.attention import plain_windows, to_map, to_tokens
from ppsr.models.camixer import CAMixer, Warp
from ppsr.models.camixer_flops import (
    OVERHEAD,
    camixer_multiply_adds,
    camixer_paper_flops,
    global_predictor_multiply_adds,
    rounded_share,
)
from ppsr.models.camixer_route import ChooseWindows, DrawDecisions, Mixing, PlanMixing
from ppsr.models.config import Config

EXACT = {"rtol": 0, "atol": 1e-12}
SIZE = (32, 48)
WINDOWS = 6


class ByScore(DrawDecisions):
    """Decides in training as evaluation would: nothing is drawn."""

    def __init__(self, choose: ChooseWindows) -> None:
        super().__init__()
        self.choose = choose

    def forward(self, probability: Tensor) -> Tensor:
        score = probability[..., 0]
        return torch.zeros_like(score).scatter(1, self.choose(score), 1)


class Given(ChooseWindows):
    """Chooses what it is told."""

    def __init__(self, chosen: list[list[int]]) -> None:
        super().__init__(1.0)
        self.chosen = torch.tensor(chosen)

    def forward(self, score: Tensor) -> Tensor:
        return self.chosen


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mixer() -> CAMixer:
    """Of 12 channels in 2 heads, float64, evaluation mode, no weight at rest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = CAMixer(12, 2, 16, 0.5)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    return made.double().eval()


def mixing(batch: int = 1, size: tuple[int, int] = SIZE) -> Mixing:
    globally = random(batch, 2, *size, seed=3)
    return PlanMixing(16)(globally, plain_windows(*size, 16, globally))


@torch.no_grad()
def plain_features(mixer: CAMixer, v: Tensor, globally: Tensor) -> Tensor:
    """What the predictor makes of the values of one picture, in maps. 1 C H W -> 1 c H W."""
    height, width = globally.shape[2:]
    line = torch.linspace(-1, 1, 16, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(line, line, indexing="ij"))
    place = place.repeat(1, height // 16, width // 16).unsqueeze(0)
    linear, norm, _ = mixer.route.in_conv
    e = F.conv2d(torch.cat((v, globally, place), 1), linear.weight[..., None, None], linear.bias)
    e = (e - e.mean(1)) / (e.var(1, correction=0) + 1e-6).sqrt()
    e = norm.weight[:, None, None] * e + norm.bias[:, None, None]
    return torch.where(e < 0, 0.1 * e, e)


@torch.no_grad()
def plain_account(mixer: CAMixer, qkv: Tensor, globally: Tensor, chosen: list[int]) -> Tensor:
    """What the paper describes, on one picture, in maps. qkv: 1 T 3C -> 1 T C."""
    height, width = globally.shape[2:]
    q, k, v = to_map(qkv, (height, width)).chunk(3, 1)
    route = mixer.route
    e = plain_features(mixer, v, globally)
    dx, dy = (8 * route.out_offsets(to_tokens(e))).reshape(height, width, 2).unbind(-1)
    x = (torch.arange(width) + dx).clamp(0, width - 1)
    y = (torch.arange(height).unsqueeze(1) + dy).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    x, y = x - left, y - top
    upper = (1 - x) * k[..., top, left] + x * k[..., top, right]
    lower = (1 - x) * k[..., bottom, left] + x * k[..., bottom, right]
    k = k + (1 - y) * upper + y * lower
    mixed = v * torch.sigmoid(route.out_SA[0](e))
    for window in chosen:
        row, column = (16 * place for place in divmod(window, width // 16))
        cut = (0, slice(None), slice(row, row + 16), slice(column, column + 16))
        heads = (part[cut].reshape(mixer.heads, mixer.depth, 256) for part in (q, k, v))
        for head, (one_q, one_k, one_v) in enumerate(zip(*heads, strict=True)):
            weights = (one_q.T @ one_k / mixer.depth**0.5).softmax(-1)
            channels = slice(head * mixer.depth, (head + 1) * mixer.depth)
            mixed[cut][channels] = (one_v @ weights.T).reshape(mixer.depth, 16, 16)
    share = route.out_CA[1](e.mean((2, 3))).sigmoid()[..., None, None]
    mixed = F.gelu(mixer.conv_sptial[1](mixer.conv_sptial[0](mixed))) * share + mixed
    return mixer.proj(to_tokens(mixed))


@torch.no_grad()
@pytest.mark.parametrize("chosen", [[0], [5, 2, 1], [0, 1, 2, 3, 4, 5]])
def test_mixer_does_what_the_paper_says(mixer, chosen):
    qkv = random(1, SIZE[0] * SIZE[1], 36)
    wanted = plain_account(mixer, qkv, random(1, 2, *SIZE, seed=3), chosen)
    mixer.choose = Given([chosen])
    torch.testing.assert_close(mixer(qkv, mixing()), wanted, **EXACT)
    mixer.choose = Given([[3, *chosen[1:]]])
    if 3 not in chosen:
        assert (mixer(qkv, mixing()) - wanted).abs().max() > 1e-3


@torch.no_grad()
def test_score_is_made_of_a_window_in_raster_order(mixer):
    qkv, scores = random(1, SIZE[0] * SIZE[1], 36), []
    mixer.choose.register_forward_pre_hook(lambda _, inputs: scores.append(inputs[0]))
    mixer(qkv, mixing())
    v = to_map(qkv, SIZE)[:, 24:]
    mean = plain_features(mixer, v, random(1, 2, *SIZE, seed=3))[0].mean(0)
    first, _, second, _ = mixer.route.out_mask
    for window in range(WINDOWS):
        row, column = divmod(window, SIZE[1] // 16)
        pixels = mean[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].flatten()
        hard, easy = second(F.leaky_relu(first(pixels), 0.1))
        torch.testing.assert_close(scores[0][0, window], torch.sigmoid(hard - easy), **EXACT)


@torch.no_grad()
def test_ratio_1_attends_everywhere(mixer):
    qkv = random(1, SIZE[0] * SIZE[1], 36)
    wanted = plain_account(mixer, qkv, random(1, 2, *SIZE, seed=3), list(range(WINDOWS)))
    mixer.choose = ChooseWindows(1.0)
    torch.testing.assert_close(mixer(qkv, mixing()), wanted, **EXACT)


@torch.no_grad()
def test_without_offsets_keys_count_twice(mixer):
    last = mixer.route.out_offsets[2]
    last.weight.zero_()
    last.bias.zero_()
    mixer.choose = Given([list(range(WINDOWS))])
    qkv, seen = random(1, SIZE[0] * SIZE[1], 36), []
    mixer.warp.register_forward_hook(lambda _, __, out: seen.append(out))
    plain = mixer(qkv, mixing())
    keys = qkv[0, mixing().windows.order, 12:24]
    torch.testing.assert_close(seen[0], keys, **EXACT)
    mixer.warp = Nothing()
    qkv[..., 12:24] *= 2
    torch.testing.assert_close(mixer(qkv, mixing()), plain, **EXACT)


class Nothing(Warp):
    """Adds no second key."""

    def forward(self, image: Tensor, points: Tensor, tokens: Tensor) -> Tensor:
        return torch.zeros(len(tokens), image.shape[1], dtype=image.dtype)


def test_warp_is_linear_between_pixels_and_the_border_outside():
    image = torch.arange(12.0).reshape(1, 1, 3, 4) ** 2
    points = torch.tensor([[[1.0, 1], [1.5, 1], [1, 1.25], [-7, -7], [9, 1], [3, 11]]])
    got = Warp()(image, points, torch.arange(6))
    wanted = [25, (25 + 36) / 2, 25 * 0.75 + 81 * 0.25, 0, 49, 121]
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_share_is_rounded_a_half_upwards(ratio):
    for windows in range(4000):
        exact = Decimal(str(ratio)) * windows
        assert rounded_share(windows, ratio) == exact.quantize(Decimal(1), ROUND_HALF_UP)


@pytest.mark.parametrize(
    ("score", "ratio", "chosen"),
    [
        ([0.1, 0.9, 0.4, 0.8], 0.5, {1, 3}),
        ([0.1, 0.9, 0.4, 0.8], 0.8, {1, 2, 3}),
        ([0.5, 0.5, 0.5, 0.5], 0.5, {0, 1}),
        ([0.2, 0.7, 0.7, 0.7, 0.9], 0.5, {1, 2, 4}),
        ([1.0, 0.0, 1.0], 0.1, {0}),
        ([0.3], 0.1, {0}),
        ([0.1, 0.2], 0.5, {1}),
        ([0.3, 0.2, 0.1], 0.5, {0, 1}),
        ([0.0, 0.0, 0.0], 1.0, {0, 1, 2}),
    ],
)
def test_best_windows_are_chosen_and_ties_go_to_the_first(score, ratio, chosen):
    found = ChooseWindows(ratio)(torch.tensor([score]))[0].tolist()
    assert set(found) == chosen
    assert len(found) == len(chosen)


def test_choice_among_many_ties_is_a_stable_sort():
    """torch's own top-k takes any of them."""
    score = torch.randint(0, 5, (3, 3840), generator=torch.Generator().manual_seed(0)) / 5
    wanted = score.sort(dim=1, descending=True, stable=True).indices[:, :1920].sort(1)[0]
    assert torch.equal(ChooseWindows(0.5)(score).sort(1)[0], wanted)
    assert not torch.equal(score.topk(1920, 1).indices.sort(1)[0], wanted)


@torch.no_grad()
def test_network_attends_to_its_best_windows(small):
    network, scores, chosen = small(ratio=0.5), [], []
    mixer = network.layers[1].residual_group.layers[0].attn_win
    mixer.choose.register_forward_pre_hook(lambda _, inputs: scores.append(inputs[0]))
    mixer.choose.register_forward_hook(lambda _, __, index: chosen.append(index))
    image = random(2, 3, *SIZE).sigmoid()
    out = network(image)
    for score, index in zip(scores[0], chosen[0], strict=True):
        assert set(index.tolist()) == set(score.argsort(descending=True)[:3].tolist())
    mixer.choose = Given([[w for w in range(6) if w not in kept] for kept in chosen[0].tolist()])
    assert (network(image) - out).abs().max() > 1e-6


@torch.no_grad()
def test_evaluation_draws_no_random_numbers(small):
    network, image = small(ratio=0.5), random(1, 3, 37, 50).sigmoid()
    state = torch.get_rng_state()
    first = network(image)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(network(image), first)
    torch.set_rng_state(state)


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0])
def test_training_with_the_same_decisions_is_evaluation(small, ratio):
    network, image = small(ratio=ratio), random(2, 3, 37, 50).sigmoid()
    evaluated = network(image)
    for module in network.modules():
        if isinstance(module, CAMixer):
            module.draw = ByScore(module.choose)
    trained, decisions = network.train().training_forward(image)
    torch.testing.assert_close(trained, evaluated, **EXACT)
    share = rounded_share(12, ratio) / 12
    torch.testing.assert_close(decisions, torch.full_like(decisions, share))


@torch.no_grad()
def test_static_form_with_one_other_decision_differs(small):
    network, image = small(ratio=0.5), random(1, 3, *SIZE).sigmoid()
    evaluated = network(image)
    for module in network.modules():
        if isinstance(module, CAMixer):
            module.draw = ByScore(ChooseWindows(0.6))
    assert (network.train()(image) - evaluated).abs().max() > 1e-6


def test_training_gives_gradients_everywhere(small):
    network = small(ratio=0.5).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out, decisions = network.training_forward(random(2, 3, *SIZE).sigmoid())
    assert decisions.shape == (2, 4)
    torch.testing.assert_close(decisions * WINDOWS, (decisions * WINDOWS).round())
    out.square().sum().backward(retain_graph=True)
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert [name for name, g in gradients.items() if g is not None and not g.any()] == []
    network.zero_grad()
    decisions.mean().backward()
    predictor = network.layers[1].residual_group.layers[1].attn_win.route
    for part in (predictor.in_conv[0], predictor.out_mask[0], predictor.out_mask[2]):
        assert part.weight.grad.any()


def test_decisions_are_drawn_by_noise_on_the_probabilities():
    """sigmoid(p0 - p1) is the chance: 0.73 for a window that is surely hard."""
    hard = torch.tensor([0.0, 0.25, 0.5, 1.0])
    probability = torch.stack((hard, 1 - hard), -1).expand(20000, -1, -1)
    probability = probability.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = DrawDecisions()(probability)
    assert ((drawn - drawn.round()).abs() < 1e-6).all()
    np.testing.assert_allclose(
        drawn.mean(0).detach(), torch.sigmoid(2 * hard - 1), rtol=0, atol=0.015
    )
    drawn.sum().backward()
    assert (probability.grad[..., 0] > 0).all()
    assert (probability.grad[..., 1] < 0).all()


def test_training_in_mixed_precision_is_finite(small):
    network = small(ratio=0.5).float().train()
    image = random(2, 3, *SIZE).sigmoid().float()
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        out, decisions = network.training_forward(image)
    (out.float().abs().mean() + decisions.float().mean()).backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("scale", "count"), [(2, 822_502), (3, 828_997), (4, 838_090)])
def test_number_of_parameters_is_the_papers(scale, count):
    """838K at x4: ATD-light's 768,792, less 24 bias tables, plus 24 predictors and a global one."""
    with torch.device("meta"):
        network = ATD(Config(scale=scale, ratio=0.8))
    assert sum(p.numel() for p in network.parameters()) == count


def test_names_are_the_official_ones(mixer):
    parts = ["conv_sptial.0", "conv_sptial.1", "proj", "route.in_conv.0", "route.in_conv.1"]
    parts += ["route.out_offsets.0", "route.out_offsets.2", "route.out_mask.0"]
    parts += ["route.out_mask.2", "route.out_CA.1", "route.out_SA.0"]
    names = {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert set(mixer.state_dict()) == names


@pytest.mark.parametrize(("ratio", "published"), [(0.8, 83.67), (0.5, 73.48)])
def test_cost_is_the_papers(ratio, published):
    config, pixels = Config(scale=4, ratio=ratio), 180 * 320
    c, layers = config.channels, sum(config.depths)
    windows = (2 * config.window**2 + c) * c * pixels
    dense = paper_flops("atd-light", 4, 180, 320)
    total = dense - layers * (windows - camixer_paper_flops(config, pixels))
    assert round(total / 1e9, 2) == published


def test_items_are_what_torch_counts(mixer):
    config, pixels = Config(channels=12, heads=2, ratio=0.5), SIZE[0] * SIZE[1]
    items = camixer_multiply_adds(config, pixels)
    with FlopCounterMode(display=False) as counter:
        mixer(random(1, pixels, 36), mixing())
    assert sum(items.values()) == counter.get_total_flops() // 2
    network = ATD(Config(channels=12, heads=2, depths=(1,), ratio=0.5)).eval()
    with FlopCounterMode(display=False) as counter:
        network.global_predictor(torch.zeros(1, 12, *SIZE))
    assert global_predictor_multiply_adds(config, pixels) == counter.get_total_flops() // 2


def test_items_of_the_overhead_are_below_what_the_paper_declares():
    config, pixels = Config(ratio=0.5), 48 * 80
    items = camixer_multiply_adds(config, pixels)
    overhead = sum(items[name] for name in set(items) - {"attention", "projection"})
    assert round(overhead / pixels) == 1763 < OVERHEAD
    assert items["attention"] == 2 * 256 * 48 * 256 * 8  # 8 of 15 windows


def test_cost_of_another_network_is_refused():
    for function in (camixer_paper_flops, camixer_multiply_adds):
        with pytest.raises(ValueError, match="atd-light has no CAMixer: expected a ratio"):
            function(Config(), 256)


@pytest.fixture(scope="module")
def traced(small: Callable[..., ATD]) -> tuple[ATD, onnxruntime.InferenceSession]:
    """One layer of CAMixer and its trace, sizes dynamic."""
    network = small(ratio=0.5, depths=(1,)).float()
    graph = trace_network(network, 20).SerializeToString()
    return network, onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (32, 48), (64, 64), (16, 288), (112, 144)])
def test_trace_is_the_network_at_any_size(traced, size):
    network, session = traced
    image = random(1, 3, *size).sigmoid().float()
    got = session.run(None, {"input": image.numpy()})[0]
    np.testing.assert_allclose(got, network(image), rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["route.out_mask.2", "route.out_offsets.0", "conv_sptial.1"])
def test_trace_of_other_weights_is_seen(traced, name):
    network, session = traced
    image = random(1, 3, 64, 64).sigmoid().float()
    got = session.run(None, {"input": image.numpy()})[0]
    weight = network.get_parameter(f"layers.0.residual_group.layers.0.attn_win.{name}.weight")
    before = weight.clone()
    weight.neg_()
    try:
        assert np.abs(got - network(image).numpy()).max() > 1e-3
    finally:
        weight.copy_(before)


@torch.no_grad()
def test_half_precision_keeps_its_dtype_and_places(mixer):
    """float16 cannot tell columns above 2048 apart: the points are float32."""
    windows = plain_windows(16, 4096, 16, torch.zeros(1))
    places = PlanMixing(16)(torch.zeros(1, 2, 16, 4096).half(), windows).places
    assert places.dtype == torch.float32
    assert torch.equal(places[-1], torch.tensor([4095.0, 15.0]))
    small_mixing = mixing()
    halved = small_mixing._replace(condition=small_mixing.condition.half())
    qkv = random(1, SIZE[0] * SIZE[1], 36)
    out = mixer.half()(qkv.half(), halved)
    assert out.dtype == torch.float16
    wanted = mixer.double()(qkv, small_mixing)
    assert (out.double() - wanted).abs().median() < 0.02


def test_layers_never_shift(small):
    layers = [module for module in small(ratio=0.5).modules() if isinstance(module, Layer)]
    assert [layer.shifted for layer in layers] == [False] * 4
    assert {type(layer.attn_win) for layer in layers} == {CAMixer}
