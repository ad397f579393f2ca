from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ppsr.models.errors import BackendUnavailable, PpsrError, UsageError
from ppsr.models.pure_pass import CENTRES, active_tokens, pad_to_grid, pure_pixels, purity_mask
from ppsr.runtime import Upscaler, upscaler


@pytest.mark.parametrize("size", [(61, 83), (16, 16), (1, 1), (1, 40), (17, 5)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_any_size_comes_back_scaled_and_cropped(
    photo: Callable, fake: Callable, size: tuple[int, int], scale: int
) -> None:
    rgb = photo("astronaut", *size)
    backend = fake(scale=scale)
    with Upscaler(backend) as up:
        out = up(rgb)
        assert (up.scale, up.device, up.artefact) == (scale, "CPU", backend.artefact)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, rgb.repeat(scale, 0).repeat(scale, 1))
    assert backend.closed
    fed = backend.feeds[0]["input"]
    assert fed.dtype == np.float32
    assert fed.shape[2] % 16 == fed.shape[3] % 16 == 0
    np.testing.assert_array_equal(
        fed[0].transpose(1, 2, 0), pad_to_grid(rgb).astype(np.float32) / 255
    )


def test_the_routed_form_is_told_which_tokens_are_active(photo: Callable, fake: Callable) -> None:
    backend = fake(form="routed")
    rgb = photo("coffee", 150, 201)
    result = Upscaler(backend).upscale(rgb)
    expected = active_tokens(pure_pixels(pad_to_grid(rgb), centres=CENTRES))
    active = backend.feeds[0]["active"]
    assert active.dtype == np.int64
    np.testing.assert_array_equal(active, expected)
    assert 0 < len(active) < 160 * 208
    assert result.pure == purity_mask(rgb).mean()
    assert result.milliseconds >= result.routing_milliseconds > 0


def test_the_other_forms_are_not_told(photo: Callable, fake: Callable) -> None:
    contained, dense = fake(), fake(form="routed", model="atd-light")
    first, second = (Upscaler(backend).upscale(photo()) for backend in (contained, dense))
    assert list(contained.feeds[0]) == list(dense.feeds[0]) == ["input"]
    assert first.pure == purity_mask(photo()).mean()
    assert second.pure is None
    assert first.routing_milliseconds is None
    assert second.routing_milliseconds == 0


def test_the_settings_of_the_artefact_are_used(photo: Callable, fake: Callable) -> None:
    from dataclasses import replace

    from ppsr.models.config import PurePass

    settings = PurePass(window=4, shift=0, centres=tuple(PurePass().centres[:3]))
    backend = fake(form="routed")
    backend.artefact = replace(backend.artefact, pure_pass=settings)
    Upscaler(backend)(photo())
    expected = pure_pixels(pad_to_grid(photo()), window=4, shift=0, centres=settings.centre_array)
    np.testing.assert_array_equal(backend.feeds[0]["active"], active_tokens(expected))


def test_output_is_clamped_and_rounded_half_to_even(photo: Callable, fake: Callable) -> None:
    backend = fake()
    levels = np.array([-9, 0.5, 1.5, 2.5, 254.4, 254.6, 300], np.float32) / 255
    backend.change = lambda output: np.resize(levels, output.shape).astype(np.float32)
    out = Upscaler(backend)(photo(height=16, width=16))
    expected = np.resize(np.array([0, 0, 2, 2, 254, 255, 255]), (3, 32, 32)).transpose(1, 2, 0)
    np.testing.assert_array_equal(out, expected)


def test_a_broken_model_is_told(photo: Callable, fake: Callable) -> None:
    backend = fake()
    backend.change = lambda output: output * np.nan
    with pytest.raises(PpsrError, match="no numbers"):
        Upscaler(backend)(photo())
    backend.change = lambda output: output[..., :-1]
    with pytest.raises(PpsrError, match=r"returned \(1, 3, 128, 191\), expected"):
        Upscaler(backend)(photo())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.pth", UsageError, "is a checkpoint.*export it first with ppsr-export"),
        ("a.safetensors", UsageError, "export it first"),
        ("a.png", UsageError, r"ends in \.onnx"),
        ("a", UsageError, r"ends in \.onnx"),
    ],
)
def test_other_model_files_are_refused(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Upscaler.open(name)


@pytest.mark.parametrize("name", ["a.plan", "a.ENGINE", "a.trt"])
def test_an_engine_does_not_run_on_the_cpu(name: str) -> None:
    with pytest.raises(UsageError, match=r"is a TensorRT engine; on the CPU run the \.onnx file"):
        Upscaler.open(name, device="cpu")
    with pytest.raises(UsageError, match="openvino, openvino-bf16, got 'tpu'"):
        Upscaler.open(name, device="tpu")  # type: ignore[arg-type]


def test_a_missing_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("trt", "engine", "plan", "cuda"):
        monkeypatch.delitem(sys.modules, f"ppsr.runtime.{name}", raising=False)
        monkeypatch.delattr(f"ppsr.runtime.{name}", raising=False)
    with pytest.raises(BackendUnavailable, match=r"pip install 'ppsr\[rtx\]' \(or 'ppsr\[tens"):
        upscaler.open_backend(Path("a.plan"))


def test_a_backend_that_routes_is_not_told_and_tells(photo: Callable, fake: Callable) -> None:
    rgb = photo("coffee", 61, 83)
    active = active_tokens(pure_pixels(pad_to_grid(rgb)))
    backend = fake(form="routed")
    backend.wants_active = False
    backend.found = {"active": active, "routing_milliseconds": np.array(0.25)}
    result = Upscaler(backend).upscale(rgb)
    assert list(backend.feeds[0]) == ["input"]
    assert result.pure == purity_mask(rgb).mean()
    assert result.routing_milliseconds == 0.25


def test_a_missing_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "ppsr.runtime.ort", raising=False)
    monkeypatch.delattr("ppsr.runtime.ort", raising=False)
    with pytest.raises(BackendUnavailable, match=r"pip install 'ppsr\[cpu\]' \(or 'ppsr\[gpu\]'"):
        upscaler.open_backend(Path("a.onnx"))
