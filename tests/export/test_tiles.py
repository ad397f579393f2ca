"""The real network in tiles against the real network on the whole picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from ppsr.runtime import Upscaler
from ppsr.runtime.tiles import Tiling

FLOAT = np.dtype(np.float32)


@pytest.fixture(scope="module", params=["routed", "self-contained"])
def upscaler(
    request: Any, graph: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upscaler]:
    path = tmp_path_factory.mktemp("tiles") / "model.onnx"
    onnx.save(graph("pp-atd-light", request.param)[0], path)
    with Upscaler.open(path, device="cpu") as up:
        yield up


def psnr(one: Any, other: Any) -> float:
    return -10 * math.log10(np.square(one - other, dtype=np.float64).mean())


def test_tiles_of_a_photo_are_close_to_the_whole(upscaler: Upscaler, photo: Callable) -> None:
    """Not equal: ATD groups tokens over all it sees. docs/tiling.md has more photos, and 39 dB."""
    rgb = photo("coffee", 160, 208, 100, 100)
    whole = upscaler.upscale(rgb, FLOAT)
    tiled = upscaler.upscale(rgb, FLOAT, Tiling(tile=112))
    assert (whole.tiles, tiled.tiles) == (1, 6)
    assert tiled.pure == whole.pure
    found = psnr(whole.pixels, tiled.pixels)
    print(f"{found:.1f} dB")
    assert found > 50
    step = np.abs(np.diff(tiled.pixels - whole.pixels, axis=1).mean((0, 2)))
    starts = [2 * start for start in (48, 64, 96, 112, 160)]
    assert step[np.array(starts) - 1].max() <= max(step.max() / 2, 0.5 / 255)


def test_a_tile_in_the_wrong_place_is_seen(upscaler: Upscaler, photo: Callable) -> None:
    rgb = photo("coffee", 160, 208, 100, 100)
    whole = upscaler.upscale(rgb, FLOAT).pixels
    tiled = upscaler.upscale(np.roll(rgb, 1, 1), FLOAT, Tiling(tile=112)).pixels
    assert psnr(whole, tiled) < 40


def test_sixteen_bits_stay_sixteen_bits(upscaler: Upscaler, photo: Callable) -> None:
    """Levels between those of 8 bits reach the network, and come out of it."""
    rng = np.random.default_rng(3)
    rgb = photo("coffee", 48, 64, 100, 100)
    fine = rgb.astype(np.uint16) * 257 + rng.integers(-120, 121, rgb.shape).clip(
        -257 * rgb.astype(int), 257 * (255 - rgb.astype(int))
    ).astype(np.uint16)
    exact = upscaler.upscale(fine.astype(np.float32) / 65535).pixels
    out = upscaler(fine)
    assert out.dtype == np.uint16
    np.testing.assert_allclose(out / 65535, exact, atol=0.6 / 65535)
    assert len(np.unique(out % 257)) > 200


def test_grey_and_alpha_go_through_the_network(upscaler: Upscaler, photo: Callable) -> None:
    rgb = photo("coffee", 48, 64, 100, 100)
    grey = upscaler(rgb[..., 1])
    three = upscaler(np.repeat(rgb[..., 1:2], 3, 2))
    assert np.abs(grey.astype(int) - three.mean(-1)).max() <= 1
    disc = np.hypot(*np.mgrid[-24:24, -32:32]) < 20
    rgba = np.dstack([rgb, 255 * disc.astype(np.uint8)])
    out = upscaler(rgba)
    assert out.shape == (96, 128, 4)
    inside = np.hypot(*np.mgrid[-48:48, -64:64]) < 34
    assert (out[inside][:, 3] == 255).all()
    plain = upscaler(rgb * disc[..., None])
    assert np.abs(out[inside][:, :3].astype(int) - plain[inside]).max() <= 1
