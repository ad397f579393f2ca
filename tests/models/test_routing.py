"""The mask in torch against the mask in numpy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from ppsr.models.config import PurePass
from ppsr.models.pure_pass import colour_labels, pad_to_grid, pure_pixels
from ppsr.models.routing import PurityMask


def assert_torch_agrees(rgb: np.ndarray, image: torch.Tensor) -> None:
    """The torch mask of ``image`` (1 3 H W) is bit-equal to numpy's of ``rgb``, on the grid."""
    for shift in (4, 0):
        got = PurityMask(PurePass(shift=shift))(image)
        assert got.dtype == torch.bool
        np.testing.assert_array_equal(got[0].numpy(), pure_pixels(rgb, shift=shift))
    np.testing.assert_array_equal(PurityMask(PurePass()).labels(image)[0], colour_labels(rgb))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_agrees_on_greys_and_colours(to_image, dtype):
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(16, 0).repeat(3, 2)
    assert_torch_agrees(greys, to_image(greys, torch.float64).to(dtype))
    colours = np.random.default_rng(3).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    assert_torch_agrees(colours, to_image(colours, torch.float64).to(dtype))


@pytest.mark.parametrize(
    "crop",
    [("coffee", 37, 50, 100, 180), ("chelsea", 90, 100, 60, 120), ("astronaut", 96, 64, 0, 200)],
)
def test_torch_agrees_on_photos(photo, to_image, crop):
    rgb = pad_to_grid(photo(*crop))
    assert_torch_agrees(rgb, to_image(rgb, torch.float32))


def test_values_off_the_grid_are_rounded(photo, to_image):
    rgb = pad_to_grid(photo("coffee", 48, 64))
    image = to_image(rgb, torch.float32)
    noise = (torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98
    assert_torch_agrees(rgb, image + noise / 255)


def test_values_out_of_range_are_clamped(to_image):
    rgb = np.array([0, 255], dtype=np.uint8)[np.indices((16, 16)).sum(0) % 2][..., None].repeat(
        3, 2
    )
    assert_torch_agrees(rgb, (to_image(rgb, torch.float32) - 0.5) * 3 + 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_torch_mask_survives_a_cast_of_the_module(photo, to_image, dtype):
    """459 |b|^2 is up to 6e6: more than float16 can hold, and no multiple of bfloat16's steps."""
    rgb = pad_to_grid(photo("coffee", 96, 128))
    got = PurityMask(PurePass()).to(dtype)(to_image(rgb, torch.float64).to(dtype))
    np.testing.assert_array_equal(got[0].numpy(), pure_pixels(rgb))


def test_torch_is_exact_with_centres_anywhere_in_the_cube(to_image):
    """Neighbours at the far corner: their scores differ least where their terms are largest."""
    corner = [(88 - r, 88 - g, 88 - b) for r, g, b in np.ndindex(3, 3, 3)]
    own = PurePass(centres=((0, 0, 0), *corner))
    rgb = np.random.default_rng(4).integers(230, 256, (128, 128, 3), dtype=np.uint8)
    got = PurityMask(own).labels(to_image(rgb, torch.float32))[0]
    wanted = colour_labels(rgb, own.centre_array)
    assert len(np.unique(wanted)) == len(corner)
    np.testing.assert_array_equal(got, wanted)


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, (16, 32, 3)))
def test_torch_agrees_on_any_array(rgb):
    assert_torch_agrees(rgb, torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0).float() / 255)
