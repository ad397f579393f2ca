"""The whole network: its two routed forms, its sizes, its ablations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppsr.models import build, purity_mask
from ppsr.models.atd import ATD, pad_to_grid
from ppsr.models.config import PurePass

EXACT = {"rtol": 0, "atol": 1e-12}
COUNTS = [1024, 700, 200, 128, 127, 1, 0]


@pytest.fixture(scope="module")
def light() -> ATD:
    """The real PP-ATD-light with the shipped weights."""
    return build("pp-atd-light", 2, dtype=torch.float64)


@pytest.fixture
def pure_pass_network(small) -> ATD:
    return small(PurePass())


def masks(counts: list[int]) -> torch.Tensor:
    """One row per sample with that many active tokens of 1024, anywhere."""
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(1024, generator=generator) for _ in counts])
    return order < torch.tensor(counts).unsqueeze(1)


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_all_tokens_active_is_the_dense_network(light, photo, to_image):
    image = to_image(photo("coffee", 16, 32, 100, 10))
    dense = light.upscale(image, None)
    tokens = torch.arange(16 * 32)
    torch.testing.assert_close(light.upscale(image, tokens), dense, **EXACT)
    everyone = torch.ones(1, 16 * 32, dtype=torch.bool)
    torch.testing.assert_close(light.upscale(image, everyone), dense, **EXACT)


@torch.no_grad()
def test_picture_without_a_pure_window_is_as_atd_light_makes_it(light, photo, to_image):
    rgb = photo("coffee", 32, 48, 100, 10)
    assert not purity_mask(rgb).any()
    dense = build("atd-light", 2, dtype=torch.float64)
    assert light.weights_sha256 == dense.weights_sha256
    torch.testing.assert_close(light(to_image(rgb)), dense(to_image(rgb)), **EXACT)


@torch.no_grad()
def test_sparse_is_static_for_any_number_of_tokens(small):
    network, images, active = small(), random_images(len(COUNTS), 3, 32, 32), masks(COUNTS)
    assert active.sum(1).tolist() == COUNTS
    static = network.upscale(images, active)
    assert static.isfinite().all()
    for image, mask, got in zip(images, active, static, strict=True):
        sparse = network.upscale(image.unsqueeze(0), mask.nonzero().squeeze(1))[0]
        torch.testing.assert_close(got, sparse, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [200, 127, 0])
def test_sparse_is_static_in_the_real_network(light, photo, to_image, tokens):
    image = to_image(photo("coffee", 32, 32, 100, 10))
    mask = masks([tokens])
    sparse = light.upscale(image, mask[0].nonzero().squeeze(1))
    torch.testing.assert_close(light.upscale(image, mask), sparse, **EXACT)
    assert (light.upscale(image, None) - sparse).abs().max() > 1e-6


@torch.no_grad()
def test_one_flipped_token_is_seen(small):
    network, image, mask = small(), random_images(1, 3, 32, 32), masks([200])
    flipped = mask.clone()
    flipped[0, 77] = ~flipped[0, 77]
    assert (network.upscale(image, mask) - network.upscale(image, flipped)).abs().max() > 1e-9


@torch.no_grad()
def test_training_and_evaluation_agree(pure_pass_network, half_pure, to_image):
    black = np.zeros_like(half_pure)
    batch = torch.cat([to_image(rgb) for rgb in (half_pure, black, half_pure[::-1])])
    shares = [purity_mask(rgb).mean() for rgb in (half_pure, black)]
    assert shares == [0.5, 1.0]
    evaluated = pure_pass_network(batch)
    trained = pure_pass_network.train()(batch)
    torch.testing.assert_close(trained, evaluated, **EXACT)


def test_training_gives_gradients_everywhere(pure_pass_network, half_pure, to_image):
    pure_pass_network.train()(to_image(half_pure)).square().sum().backward()
    gradients = {name: p.grad for name, p in pure_pass_network.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert [name for name, g in gradients.items() if g is not None and not g.any()] == []


@torch.no_grad()
def test_flat_picture_has_no_active_token(pure_pass_network, small):
    black = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    out = pure_pass_network(black)
    nobody = torch.zeros(0, dtype=torch.int64)
    assert out.isfinite().all()
    torch.testing.assert_close(out, small().upscale(black, nobody), **EXACT)
    assert (out - small()(black)).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", ["pure_pass_network", "light"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_flat_pictures_stay_finite_in_float32(request, name, value):
    network = request.getfixturevalue(name)
    out = network.float()(torch.full((1, 3, 16, 16), value))
    network.double()
    assert out.isfinite().all()
    assert out.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [(8, 8), (8, 31), (9, 15), (15, 9), (16, 16), (17, 33), (37, 50), (16, 400), (31, 8)]
)
@pytest.mark.parametrize(
    "settings",
    [{"pure_pass": PurePass()}, {}, {"ratio": 0.5}],
    ids=["routed", "dense", "mixed"],
)
def test_any_size_from_8_up(small, size, settings):
    """The picture is mirrored to multiples of 16, edge repeated, and the output is cut."""
    network = small(**settings)
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    images = torch.stack([torch.from_numpy(p.copy()) for p in (rgb, rgb[::-1])])
    images = images.permute(0, 3, 1, 2).double() / 255
    out = network(images)
    assert out.shape == (2, 3, 2 * size[0], 2 * size[1])
    bottom, right = (-side % 16 for side in size)
    padded = np.pad(images, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="symmetric")
    assert np.array_equal(pad_to_grid(images), padded)
    whole = network(torch.from_numpy(padded))[..., : 2 * size[0], : 2 * size[1]]
    torch.testing.assert_close(out, whole, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_output_is_scale_times_larger(small, scale):
    assert small(scale=scale)(random_images(1, 3, 9, 15)).shape == (1, 3, 9 * scale, 15 * scale)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"pure_pass": PurePass()}, {"ratio": 0.5}])
def test_samples_of_a_batch_are_independent(small, settings, half_pure, to_image):
    network = small(**settings)
    batch = torch.cat([to_image(half_pure), to_image(half_pure[::-1]), to_image(half_pure) / 2])
    together = network(batch)
    for one, out in zip(batch.split(1), together, strict=True):
        torch.testing.assert_close(network(one)[0], out, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 0), (torch.float32, 1e-3), (torch.bfloat16, 0.3), (torch.float16, 0.1)],
)
def test_dtype_is_kept(light, photo, to_image, dtype, tolerance):
    """Tolerances: a token or two in another category; half of float32's digits and less."""
    image = to_image(photo("coffee", 16, 24, 118, 206))
    out = build("pp-atd-light", 2, dtype=dtype)(image.to(dtype))
    assert out.dtype == dtype
    assert (out.double() - light(image)).abs().max() <= tolerance


@torch.no_grad()
def test_without_the_shift_fewer_tokens_are_pure(small, photo, to_image):
    rgb = photo("coffee", 64, 96)
    image = to_image(rgb)
    routed = {shift: small(PurePass(shift=shift)) for shift in (4, 0)}
    pure = {shift: network.purity(image)[0].numpy() for shift, network in routed.items()}
    for shift, mask in pure.items():
        np.testing.assert_array_equal(mask, purity_mask(rgb, shift=shift))
    assert 0 < pure[0].sum() < pure[4].sum()
    assert (pure[4] >= pure[0]).all()
    outputs = [network(image) for network in routed.values()]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-6


@torch.no_grad()
def test_compensation_reaches_pure_pixels_only(small, half_pure, to_image):
    """In one layer; through the convolutions and the dictionary it spreads afterwards."""
    got = {}
    for compensation in (True, False):
        network = small(PurePass(compensation=compensation))
        layer = network.layers[0].residual_group.layers[0].attn_aca
        layer.register_forward_hook(lambda _, __, y, key=compensation: got.update({key: y[0]}))
        network(to_image(half_pure))
    pure = torch.from_numpy(purity_mask(half_pure)).flatten()
    assert torch.equal(got[True][~pure], got[False][~pure])
    assert (got[False][pure] == 0).all()
    assert got[True][pure].abs().amin(1).min() > 0


@torch.no_grad()
def test_routing_goes_by_the_picture_before_padding_is_cut(pure_pass_network, half_pure, to_image):
    """37 x 41: the mask of the network is ``purity_mask``, seen through a hook."""
    rgb = half_pure[10:47, 2:43]
    seen = []
    layer = pure_pass_network.layers[0].residual_group.layers[0].attn_aca
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[3].active))
    pure_pass_network(to_image(rgb))
    mask = torch.ones(48 * 48, dtype=torch.bool)
    mask[seen[0]] = False
    np.testing.assert_array_equal(mask.reshape(48, 48)[:37, :41].numpy(), purity_mask(rgb))


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 7, 20), (1, 3, 20, 7), (1, 1, 16, 16), (1, 4, 16, 16), (3, 16, 16), (1, 16, 16, 3)],
)
def test_wrong_shapes_are_refused(pure_pass_network, shape):
    with pytest.raises(ValueError, match="expected N 3 H W with H and W of at least 8, got"):
        pure_pass_network(torch.zeros(shape, dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_flat_pictures_stay_finite_with_mixed_windows(small, value):
    """Windows away from the border are equal there: the choice is a tie."""
    network = small(ratio=0.5).float()
    image = torch.full((1, 3, 64, 96), value)
    out = network(image)
    assert out.isfinite().all()
    assert torch.equal(network(image), out)


def test_training_forward_is_of_mixed_windows_in_training_mode(small):
    image = random_images(1, 3, 16, 16)
    with pytest.raises(
        ValueError, match="expected camixer-atd-light in training mode, got atd-light"
    ):
        small().train().training_forward(image)
    with pytest.raises(ValueError, match="got camixer-atd-light in evaluation mode"):
        small(ratio=0.5).training_forward(image)
    with pytest.raises(ValueError, match="expected N 3 H W with H and W of at least 8"):
        small(ratio=0.5).train().training_forward(image[..., :7])


def test_training_forward_is_the_training_mode(small):
    network, image = small(ratio=0.5).train(), random_images(2, 3, 17, 40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wanted = network(image)
        torch.manual_seed(0)
        out, decisions = network.training_forward(image)
    assert torch.equal(out, wanted)
    assert decisions.shape == (2, 4)
    assert out.shape == (2, 3, 34, 80)
