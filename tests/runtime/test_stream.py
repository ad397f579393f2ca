from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ppsr.models.errors import PpsrError, UsageError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, pure_pixels, purity_mask
from ppsr.runtime import Upscaler, memory
from ppsr.runtime import stream as streaming
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.sidecar import ShapeRange
from ppsr.runtime.tiles import WHOLE, Tiling

SMALL = Tiling(tile=64, overlap=16)


def pixels_of(dtype: Any, channels: int, size: tuple[int, int]) -> Any:
    """A ramp, part of it transparent."""
    ramp = np.linspace(0, 1, size[0] * size[1] * channels).reshape(*size, channels)
    if channels in (2, 4):
        ramp[..., -1] = np.linspace(0, 1, size[1])
    return ramp.astype(dtype) if dtype == np.float32 else (ramp * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (150, 203), (17, 300), (1, 3000)])
@pytest.mark.parametrize("tiling", [Tiling(), SMALL, Tiling(tile=128)])
def test_a_model_that_repeats_pixels_returns_them(
    fake: Callable, dtype: Any, channels: int, size: tuple[int, int], tiling: Tiling
) -> None:
    pixels = pixels_of(dtype, channels, size)
    result = Upscaler(fake()).upscale(pixels, tiling=tiling)
    assert result.pixels.dtype == dtype
    expected = pixels.repeat(2, 0).repeat(2, 1)
    if channels in (2, 4):
        expected = np.where(expected[..., -1:] > 0, expected, 0)
    exact = dtype != np.float32 or (result.tiles == 1 and channels % 2)
    np.testing.assert_allclose(result.pixels, expected, rtol=0, atol=0 if exact else 5e-7)


def test_grey_may_come_without_an_axis(photo: Callable, fake: Callable) -> None:
    grey = photo()[..., 1]
    np.testing.assert_array_equal(Upscaler(fake())(grey), grey.repeat(2, 0).repeat(2, 1))


def test_another_type_is_computed_without_a_step_between(photo: Callable, fake: Callable) -> None:
    backend = fake()
    backend.change = lambda output: output + np.float32(0.3 / 255)
    rgb = photo() // 2
    result = Upscaler(backend).upscale(rgb, dtype=np.dtype(np.uint16)).pixels
    expected = np.rint((rgb.repeat(2, 0).repeat(2, 1) + 0.3) * 257)
    assert np.abs(result - expected).max() <= 1
    with pytest.raises(UsageError, match="expected uint8, uint16, float32, got float64"):
        Upscaler(backend).upscale(rgb, dtype=np.dtype(np.float64))


def test_tiles_never_change_the_routing(photo: Callable, fake: Callable) -> None:
    rgb = photo("coffee", 150, 201)
    backend = fake(form="routed")
    result = Upscaler(backend).upscale(rgb, tiling=SMALL)
    whole = pure_pixels(pad_to_grid(rgb))
    assert result.tiles == len(backend.feeds) > 1
    assert result.pure == pytest.approx(purity_mask(rgb).mean())
    assert 0 < result.routing_milliseconds < result.milliseconds
    fed = iter(backend.feeds)
    stream = Upscaler(backend).stream(ArrayPixels(rgb), tiling=SMALL)
    for top in stream._down.starts:
        for left in stream._across.starts:
            feed = next(fed)
            height, width = feed["input"].shape[2:]
            part = whole[top : top + height, left : left + width]
            np.testing.assert_array_equal(feed["active"], active_tokens(part))


@pytest.mark.parametrize("form", ["routed", "self-contained"])
def test_the_share_is_that_of_the_whole_however_it_is_cut(
    photo: Callable, fake: Callable, form: str
) -> None:
    rgb = photo("coffee", 150, 201)
    for tiling in (Tiling(), SMALL, Tiling(tile=96, overlap=48)):
        assert Upscaler(fake(form=form)).upscale(rgb, tiling=tiling).pure == purity_mask(rgb).mean()


def test_the_dense_model_has_no_mask_in_tiles_either(photo: Callable, fake: Callable) -> None:
    backend = fake(form="routed", model="atd-light")
    result = Upscaler(backend).upscale(photo("coffee", 150, 201), tiling=SMALL)
    assert (result.pure, result.routing_milliseconds) == (None, 0)
    assert all(list(feed) == ["input"] for feed in backend.feeds)


@pytest.mark.parametrize("tiling", [Tiling(), SMALL], ids=["whole", "tiles"])
def test_what_blocks_attend_to_is_told_of_the_whole(
    photo: Callable, fake: Callable, monkeypatch: pytest.MonkeyPatch, tiling: Tiling
) -> None:
    """A network of 4 blocks that keeps tokens by their red, as tiles would tell it too."""
    rgb = photo("coffee", 150, 201)
    backend = fake(form="routed", model="adaformer")
    enlarge = backend.run

    def run(feed: Any) -> Any:
        red = np.rint(feed["input"][:, :1] * 255).astype(np.int32)
        return {**enlarge(feed), "attended": 1 + red // 64}

    monkeypatch.setattr(backend, "run", run)
    stream = Upscaler(backend).stream(ArrayPixels(rgb), tiling=tiling)
    assert sum(len(band) for band in stream) == 300
    assert (stream.tiles > 1) == (tiling is SMALL)
    expected = 1 + rgb[..., 0] // 64
    assert stream.kept == pytest.approx([(expected > block).mean() for block in range(4)])
    assert stream.skipped is not None
    assert stream.skipped.most == 4
    np.testing.assert_array_equal(stream.skipped.rows(7, 90), 4 - expected[7:90])
    shares = [round(100 * (1 - share)) for share in stream.kept]
    assert stream.skipped.label == " ".join(map(str, shares)) + " %"
    assert stream.pure is None


def test_seams_are_blended(photo: Callable, fake: Callable) -> None:
    """Each tile is off by another amount: nowhere more than a fraction of it shows at once."""
    backend = fake()
    backend.change = lambda output: output * 0 + len(backend.feeds) % 2
    flat = np.zeros((64, 300, 3), np.float32)
    result = Upscaler(backend).upscale(flat, tiling=Tiling(tile=128, overlap=64)).pixels
    assert (result.min(), result.max()) == (0, 1)
    assert np.abs(np.diff(result, axis=1)).max() <= 1 / 64


def test_opaque_colours_next_to_nothing_have_no_fringe(fake: Callable) -> None:
    """Red with soft edges on black that nobody sees: a model that blurs must not mix it in."""
    alpha = np.clip(40 - np.hypot(*np.mgrid[-48:48, -48:48]), 0, 1)
    rgba = np.zeros((96, 96, 4), np.uint8)
    rgba[..., 0] = np.where(alpha > 0, 230, 0)
    rgba[..., 3] = np.rint(alpha * 255)

    def blur(output: Any) -> Any:
        return sum(np.roll(output, (y, x), (2, 3)) for y in range(-2, 3) for x in range(-2, 3)) / 25

    backend = fake()
    backend.change = blur
    out = Upscaler(backend)(rgba)
    seen = out[out[..., 3] > 8]
    assert len(np.unique(out[..., 3])) > 20
    assert np.abs(seen[:, 0].astype(int) - 230).max() <= 2
    assert (seen[:, 1:3] == 0).all()


def test_enlarged_alpha_does_not_ring(photo: Callable, fake: Callable) -> None:
    backend = fake()
    backend.change = lambda output: output * 1.2 - 0.1
    rgba = np.dstack([photo("coffee", 64, 64), np.full((64, 64), 255, np.uint8)])
    rgba[:, :20, 3] = 0
    out = Upscaler(backend)(rgba)
    assert (out[:, :38, 3] == 0).all()
    assert (out[:, 42:, 3] == 255).all()


def test_constant_alpha_costs_no_run(photo: Callable, fake: Callable) -> None:
    backend = fake()
    rgba = np.dstack([photo(), np.full(photo().shape[:2], 255, np.uint8)])
    assert (Upscaler(backend)(rgba)[..., 3] == 255).all()
    assert len(backend.feeds) == 1


def test_memory_decides_whether_a_picture_is_cut(
    photo: Callable, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = photo("coffee", 300, 300)
    monkeypatch.setattr(memory, "free_bytes", lambda root: 10**12)
    assert Upscaler(fake()).upscale(rgb).tiles == 1
    monkeypatch.setattr(memory, "free_bytes", lambda root: 5 * 10**8)
    result = Upscaler(fake()).upscale(rgb)
    assert result.tiles > 1
    np.testing.assert_array_equal(result.pixels, rgb.repeat(2, 0).repeat(2, 1))
    monkeypatch.setattr(memory, "free_bytes", lambda root: 10**6)
    backend = fake()
    with pytest.raises(PpsrError, match=r"tiles of 64 x 64 of this picture need about 0\.\d+ GB"):
        Upscaler(backend)(rgb)
    with pytest.raises(PpsrError, match="tiles of 128 x 128"):
        Upscaler(backend).upscale(rgb, tiling=Tiling(tile=128))
    with pytest.raises(PpsrError, match=r"tiles of 32 x 48 .* 0\.00 GB may be taken"):
        Upscaler(backend).upscale(rgb[:20, :40], tiling=Tiling(max_memory=1))
    with pytest.raises(PpsrError, match="tiles of 304 x 304"):
        Upscaler(backend).upscale(rgb, tiling=WHOLE)
    assert not backend.feeds
    backend.device = "CUDA"
    assert Upscaler(backend).upscale(rgb).tiles == 1
    monkeypatch.setattr(streaming, "DEVICE_BYTES", 5 * 10**8)
    assert Upscaler(backend).upscale(rgb).tiles > 1
    assert Upscaler(backend).upscale(rgb, tiling=WHOLE).tiles == 1


def test_an_engine_gets_tiles_that_its_profiles_take(photo: Callable, fake: Callable) -> None:
    backend = fake(form="routed")
    backend.device, backend.wants_active = "CUDA", False
    backend.profiles = [ShapeRange((64, 112), (64, 112), (128, 160))]
    for size in ((300, 400), (10, 10), (100, 300), (140, 170)):
        backend.feeds.clear()
        rgb = photo("coffee", *size)
        np.testing.assert_array_equal(Upscaler(backend)(rgb), rgb.repeat(2, 0).repeat(2, 1))
        for feed in backend.feeds:
            assert backend.profiles[0].holds(feed["input"].shape[2:])
            assert ("active" in feed) == (len(backend.feeds) > 1)


def test_tiles_below_what_an_engine_takes_are_refused(photo: Callable, fake: Callable) -> None:
    backend = fake(form="routed")
    backend.device, backend.wants_active = "CUDA", False
    backend.profiles = [ShapeRange((128, 128), (128, 128), (256, 256))]
    with pytest.raises(UsageError, match="takes tiles from 128 x 128 on, not 64 x 64; use larger"):
        Upscaler(backend).upscale(photo("coffee", 300, 300), tiling=SMALL)
    assert not backend.feeds


def test_floats_beyond_their_range_become_integers_of_the_same_brightness(fake: Callable) -> None:
    pixels = np.full((32, 32, 3), 0.5, np.float32)
    pixels[0, 0], pixels[5, 5] = 4, -1
    upscaler = Upscaler(fake())
    out = upscaler.upscale(pixels, np.dtype(np.uint8)).pixels
    assert (out[0, 0, 0], out[10, 10, 0], out[40, 40, 0]) == (255, 0, 128)
    band = upscaler.stream(ArrayPixels(pixels), np.dtype(np.uint16))
    assert band.notes == ("values beyond 0 to 1 clipped",)
    assert upscaler.stream(ArrayPixels(pixels)).notes == ()
    assert upscaler.stream(ArrayPixels(pixels.clip(0, 1)), np.dtype(np.uint8)).notes == ()


def test_alpha_that_is_no_number_is_told(fake: Callable) -> None:
    backend = fake()
    backend.change = lambda output: output * (np.nan if len(backend.feeds) == 2 else 1)
    pixels = pixels_of(np.uint8, 4, (20, 20))
    with pytest.raises(PpsrError, match="no numbers"):
        Upscaler(backend)(pixels)


def test_rows_come_one_after_the_other(photo: Callable, fake: Callable) -> None:
    """The first rows are out before the last tiles are in."""
    backend = fake()
    stream = Upscaler(backend).stream(ArrayPixels(photo("coffee", 300, 64)), tiling=SMALL)
    bands = iter(stream)
    assert next(bands).shape == (32, 128, 3)
    assert len(backend.feeds) == 1
    assert sum(len(band) for band in bands) == 600 - 32
    assert len(backend.feeds) == stream.tiles > 5
