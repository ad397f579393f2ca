from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ppsr.models.checkpoint import read_checkpoint
from ppsr.models.errors import BackendUnavailable, PpsrError, UsageError
from ppsr.training import journal
from ppsr.training.options import TrainOptions
from ppsr.training.state import load_state
from ppsr.training.trainer import Trainer, new_run, resumed_run

Make = Callable[..., TrainOptions]


def test_a_run_leaves_weights_log_and_state(options: Make, tmp_path: Path, photos: Path) -> None:
    trainer = new_run(tmp_path / "run", options(validation=str(photos)))
    rows = []
    assert trainer.run(rows.append)
    assert (trainer.step, trainer.done) == (4, 1)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "log.csv",
        "state.pt",
        "weights.safetensors",
    ]
    assert [row.step for row in rows] == [2, 4]
    assert rows[0].psnr_y is None
    assert rows[1].psnr_y is not None
    assert rows[1].psnr_y > 30
    assert journal.read(tmp_path / "run" / "log.csv")[1].step == 4
    weights = read_checkpoint(tmp_path / "run" / "weights.safetensors", scale=2)
    for name, value in load_state(tmp_path / "run").average.items():
        assert torch.equal(weights[name], value)


def test_training_learns(options: Make, tmp_path: Path) -> None:
    """From bicubic, on one patch again and again: the loss must fall."""
    start = options(init="bicubic", steps=24, log_every=1, batch=1)
    trainer = new_run(tmp_path / "run", start)
    same = trainer._patches.batch(seed=0, step=0, size=1)
    trainer._patches.batch = lambda *_: same  # type: ignore[method-assign]
    losses: list[float] = []
    trainer.run(lambda row: losses.append(row.loss))
    assert losses[-1] < 0.92 * losses[0], losses


@pytest.mark.parametrize(
    "given",
    [
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"precision": "bf16", "model": "camixer-atd-light", "ratio": 0.8, "init": "bicubic"},
        {"precision": "bf16", "model": "adaformer", "init": "bicubic"},
    ],
    ids=lambda given: f"{given.get('model', 'pp-atd-light')}, {given['precision']}",
)
def test_stopped_and_resumed_is_bit_equal(
    options: Make, tmp_path: Path, given: dict[str, Any]
) -> None:
    """Also of what CAMixer draws at random."""
    straight = new_run(tmp_path / "straight", options(steps=6, **given))
    assert straight.run()
    stopped = new_run(tmp_path / "stopped", options(steps=6, **given))
    assert not stopped.run(should_stop=lambda: stopped.step == 3)
    resumed = resumed_run(tmp_path / "stopped")
    assert resumed.step == 3
    assert resumed.run()
    one, other = load_state(tmp_path / "straight"), load_state(tmp_path / "stopped")
    for a, b in ((one.network, other.network), (one.average, other.average)):
        assert all(torch.equal(a[name], b[name]) for name in a)
    rows = journal.read(tmp_path / "stopped" / "log.csv")
    assert [row.step for row in rows] == [2, 4, 6]


def test_another_seed_gives_other_weights(options: Make, tmp_path: Path) -> None:
    states = []
    for seed in (0, 1):
        new_run(tmp_path / str(seed), options(seed=seed, steps=1)).run()
        states.append(load_state(tmp_path / str(seed)).network["norm.weight"])
    assert not torch.equal(*states)


def test_bfloat16_follows_float32(options: Make, tmp_path: Path) -> None:
    """The same batch: losses agree, the picture's path stays float32, the attention does not."""
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(tmp_path, options(precision=precision), lambda *_: None)
        seen: list[torch.dtype] = []
        trainer.network.upsample.register_forward_hook(
            lambda _module, _inputs, out, seen=seen: seen.append(out.dtype)
        )
        layer = trainer.network.layers[0].residual_group.layers[0]
        layer.attn_aca.softmax.register_forward_hook(
            lambda _module, _inputs, out, seen=seen: seen.append(out.dtype)
        )
        trainer.run(should_stop=lambda trainer=trainer: trainer.step == 1)
        wanted = torch.float32 if precision == "fp32" else torch.bfloat16
        assert seen == [wanted, torch.float32]
        losses.append(load_state(tmp_path).network["upsample.0.bias"])
        low, high = trainer._patches.batch(0, 0, 2)
        assert low.shape[0] == high.shape[0] == 2
    torch.testing.assert_close(*losses, rtol=0, atol=1e-3)


def test_a_run_by_the_clock_ends(options: Make, tmp_path: Path) -> None:
    trainer = new_run(tmp_path / "run", options(steps=None, minutes=0.02, log_every=1))
    rows = []
    assert trainer.run(rows.append)
    assert trainer.seconds >= 1.2
    assert rows[-1].rate < rows[0].rate or len(rows) < 4


def test_a_folder_with_a_run_is_kept(options: Make, tmp_path: Path) -> None:
    new_run(tmp_path, options(steps=1)).run()
    with pytest.raises(UsageError, match="--resume"):
        new_run(tmp_path, options())


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no"):
        resumed_run(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(UsageError, match="cannot be resumed"):
        resumed_run(tmp_path)


@pytest.mark.parametrize("what", ["gradient's norm is nan at step 0", "loss is nan at step 1"])
def test_what_is_no_number_ends_the_run(
    options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A CPU sees it in the gradient; else it is seen in what is logged."""
    trainer = new_run(tmp_path / "run", options(log_every=1))
    with torch.no_grad():
        trainer.network.norm.weight.fill_(float("nan"))
    if what.startswith("loss"):
        monkeypatch.setattr(trainer, "_train_step", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(PpsrError, match=what):
        trainer.run()
    assert not (tmp_path / "run" / "state.pt").exists()


def test_no_cuda(options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="--device cpu"):
        new_run(tmp_path / "run", options(device="cuda"))
    assert not (tmp_path / "run").exists()
