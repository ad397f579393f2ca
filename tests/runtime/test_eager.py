"""The network as a backend: the same picture as the module gives, and its identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ppsr.models.config import PurePass
from ppsr.models.errors import BackendUnavailable, CheckpointError, PpsrError, UsageError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, purity_mask
from ppsr.runtime import Upscaler
from ppsr.runtime.metrics import psnr

torch = pytest.importorskip("torch")

from ppsr.models import build  # noqa: E402
from ppsr.models.atd import ATD  # noqa: E402
from ppsr.runtime.eager import EagerBackend  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def half_pure(photo: Callable) -> np.ndarray:
    """27 x 31: a photo without a pure window above, one colour below, from row 12 on."""
    upper = photo("coffee", 112, 41)[100:, 10:]
    return np.concatenate((upper, np.full((15, 31, 3), (200, 40, 40), np.uint8)))


def by_module(rgb: np.ndarray, name: str, **options: object) -> np.ndarray:
    with torch.inference_mode():
        image = torch.tensor(rgb).permute(2, 0, 1).unsqueeze(0).float() / 255
        out = build(name, 2, **options)(image)[0].clamp(0, 1) * 255
    return out.round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_gives_the_picture_that_the_module_gives(half_pure: np.ndarray, name: str) -> None:
    with Upscaler(EagerBackend("default", "cpu", model=name, scale=2)) as up:
        result = up.upscale(half_pure)
        artefact = up.artefact
        assert (up.scale, up.device) == (2, "CPU")
    expected = by_module(half_pure, name)
    assert np.abs(result.pixels.astype(int) - expected).max() <= 1
    assert psnr(result.pixels, expected) > 70
    assert (artefact.model, artefact.form, artefact.precision) == (name, "routed", "fp32")
    assert artefact.weights_sha256 == build(name, 2).weights_sha256
    if name == "atd-light":
        assert (result.pure, artefact.pure_pass) == (None, None)
    else:
        assert 0.2 < result.pure == purity_mask(half_pure).mean() < 0.6
        assert artefact.pure_pass == PurePass()


def test_the_routing_it_is_fed_is_the_routing_it_runs(half_pure: np.ndarray) -> None:
    backend = EagerBackend("default", "cpu", scale=2)
    padded = pad_to_grid(half_pure)
    image = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32) / 255
    all_of_them, some = np.arange(32 * 32), active_tokens(purity_mask(padded))
    runs = [backend.run({"input": image, "active": active}) for active in (all_of_them, some)]
    assert runs[0]["output"].shape == (1, 3, 64, 64)
    assert np.abs(runs[0]["output"] - runs[1]["output"]).max() > 1e-3


def test_ablations_change_the_mask_and_the_picture(half_pure: np.ndarray) -> None:
    plain, unshifted, zeros = (
        Upscaler(EagerBackend("default", "cpu", scale=2, pure_pass=settings)).upscale(half_pure)
        for settings in (None, PurePass(shift=0), PurePass(compensation=False))
    )
    assert unshifted.pure == purity_mask(half_pure, shift=0).mean() < plain.pure
    assert zeros.pure == plain.pure
    assert (zeros.pixels != plain.pixels).any()
    expected = by_module(half_pure, "pp-atd-light", pure_pass=PurePass(compensation=False))
    assert np.abs(zeros.pixels.astype(int) - expected).max() <= 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random x3 weights, as the official code saves them."""
    path = tmp_path_factory.mktemp("weights") / "x3.pth"
    torch.save({"params": build("atd-light", 3, weights=None).state_dict()}, path)
    return path


def test_a_checkpoint_says_its_scale(checkpoint: Path, photo: Callable) -> None:
    with Upscaler(EagerBackend(checkpoint, "cpu")) as up:
        assert up.scale == 3
        assert up(photo("coffee", 16, 20)).shape == (48, 60, 3)
    with pytest.raises(CheckpointError, match="expected weights for x2, got weights for x3"):
        EagerBackend(checkpoint, scale=2)


def test_no_token_or_every_token_may_be_active(photo: Callable) -> None:
    with Upscaler(EagerBackend("default", "cpu", scale=2)) as up:
        flat = up.upscale(np.full((16, 16, 3), (200, 40, 40), np.uint8))
        busy = up.upscale(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    assert (flat.pure, busy.pure) == (1, 0)
    assert np.abs(flat.pixels.astype(int) - (200, 40, 40)).max() < 20


def test_torchs_settings_are_left_as_they_were(
    photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return torch.get_num_threads(), cudnn.enabled, cudnn.allow_tf32

    seen = []
    real = ATD.upscale
    monkeypatch.setattr(ATD, "upscale", lambda *inputs: (seen.append(settings()), real(*inputs))[1])
    torch.set_num_threads(2)
    try:
        before = settings()
        with Upscaler(EagerBackend("default", "cpu", 1, scale=2)) as up:
            up(photo("coffee", 16, 16))
        assert seen == [(1, True, False)]
        assert settings() == before == (2, True, True)
    finally:
        torch.set_num_threads(1)


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        EagerBackend(tmp_path / "no.pth")
    with pytest.raises(UsageError, match="the shipped weights exist by scale"):
        EagerBackend("default")
    with pytest.raises(UsageError, match="atd-light has no routing: expected pure_pass=None"):
        EagerBackend("default", model="atd-light", scale=2, pure_pass=PurePass())
    with pytest.raises(UsageError, match="openvino, openvino-bf16, got 'tpu'"):
        EagerBackend("default", "tpu", scale=2)  # type: ignore[arg-type]
    for device in ("openvino", "openvino-bf16"):
        with pytest.raises(UsageError, match=f"runs by torch, not by {device}; use --device cpu"):
            EagerBackend("default", device, scale=2)
    with pytest.raises(UsageError, match="expected 1 to 1024 threads, got 0"):
        EagerBackend("default", threads=0, scale=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about CUDA that does not work")
@pytest.mark.parametrize(
    ("found", "message"), [(False, "this torch finds none; install"), (True, r"does not start \(")]
)
def test_cuda_that_does_not_work_is_refused_or_left_aside(
    monkeypatch: pytest.MonkeyPatch, found: bool, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    with pytest.raises(BackendUnavailable, match=message) as caught:
        EagerBackend("default", "cuda", scale=2)
    assert "\n" not in str(caught.value)
    assert EagerBackend("default", "auto", scale=2).device == "CPU"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("size mismatch\nat line 3"), "the network failed on CPU: size mismatch$"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "not enough memory"),
        (MemoryError(), "not enough memory; use smaller tiles, or a smaller picture"),
    ],
)
def test_failures_are_one_line(
    photo: Callable, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ATD, "upscale", fail)
    with (
        pytest.raises(PpsrError, match=message),
        Upscaler(EagerBackend("default", "cpu", scale=2)) as up,
    ):
        up(photo("coffee", 16, 16))


def test_a_closed_network_says_so(photo: Callable) -> None:
    with Upscaler(EagerBackend("default", "cpu", scale=2)) as up:
        up.close()
    with pytest.raises(PpsrError, match="this model is closed"):
        up(photo("coffee", 16, 16))
