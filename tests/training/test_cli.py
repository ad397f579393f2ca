from __future__ import annotations

import builtins
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ppsr.training import cli, journal
from ppsr.training.state import load_state

SHORT = ("--patch", "16", "--batch", "1", "--log-every", "1", "--save-seconds", "0")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def spawn(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ppsr.training.cli", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    output = process.communicate()[0]
    assert process.returncode == 0, output


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        log = folder / "log.csv"
        if log.exists() and any(row.step >= step for row in journal.read(log)):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("the run did not get there")


def test_a_killed_run_resumed_is_bit_equal(photos: Path, tmp_path: Path) -> None:
    """SIGKILL, not a polite stop: 10 steps with it and 10 without give the same bits.

    All in processes of their own: other libraries may change how this one rounds.
    """
    arguments = ("--data", str(photos), "--steps", "10", *SHORT)
    finish(spawn(*arguments, "-o", str(tmp_path / "straight")))
    process = spawn(*arguments, "-o", str(tmp_path / "killed"))
    wait_for_step(tmp_path / "killed", 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    at = load_state(tmp_path / "killed").step
    assert 3 <= at < 10
    finish(spawn("--resume", str(tmp_path / "killed")))
    one, other = load_state(tmp_path / "straight"), load_state(tmp_path / "killed")
    assert one.step == other.step == 10
    for a, b in ((one.network, other.network), (one.average, other.average)):
        assert all(torch.equal(a[name], b[name]) for name in a)
    rows = journal.read(tmp_path / "killed" / "log.csv")
    assert [row.step for row in rows] == list(range(1, 11))
    straight = journal.read(tmp_path / "straight" / "log.csv")
    assert [row.loss for row in rows] == [row.loss for row in straight]
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert [name for name in names if not name.startswith(".ppsr-")] == [
        "curve.png",
        "log.csv",
        "state.pt",
        "weights.safetensors",
    ]


def test_ctrl_c_saves_and_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    process = spawn("--data", str(photos), "--steps", "5000", *SHORT, "-o", str(tmp_path / "run"))
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    step = load_state(tmp_path / "run").step
    assert f"stopped at step {step}" in output
    assert "--resume" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data DIR and -o FOLDER"),
        (("--data", "x"), "--data DIR and -o FOLDER"),
        (("--data", "nowhere", "-o", "run", "--steps", "1"), "nothing there: nowhere"),
        (("--data", "empty", "-o", "run", "--steps", "1"), "holds no picture"),
        (("--data", "photos", "-o", "run"), "--steps and --minutes"),
        (("--data", "photos", "-o", "run", "--steps", "1", "--patch", "20"), "multiple of 16"),
        (("--data", "photos", "-o", "run", "--steps", "1", "--patch", "512"), "at least 1024"),
        (("--data", "photos", "-o", "run", "--steps", "1", "--init", "no.pth"), "got no.pth"),
        (("--resume", "empty"), "found no empty"),
        (("--resume", "empty", "--rate", "1"), "drop --rate"),
        (("--resume", "empty", "-o", "run"), "drop --output"),
    ],
)
def test_mistakes_cost_one_line(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").symlink_to(photos)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_torch(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    for name in [name for name in sys.modules if name.startswith("ppsr.training.trainer")]:
        monkeypatch.delitem(sys.modules, name)

    def fake(name: str, *rest: Any, **more: Any) -> Any:
        if name == "torch":
            raise ImportError(name, name="torch")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", fake)
    result = run("--data", str(photos), "-o", str(tmp_path / "run"), "--steps", "1")
    assert result.exit_code == 4
    assert "pip install 'ppsr[train]'" in result.stderr
