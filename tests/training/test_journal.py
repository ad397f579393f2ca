from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from ppsr.models.errors import BackendUnavailable
from ppsr.training import journal
from ppsr.training.journal import Journal, Row


def row(step: int, psnr_y: float | None = None) -> Row:
    return Row(step, step / 10, 1e-3, 0.02 / step, 7.5, 0.001, psnr_y)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Journal(tmp_path, 0)
    for step in (1, 2, 3):
        made.add(row(step, 30.0 + step if step == 2 else None))
    return tmp_path


def test_rows_come_back(folder: Path) -> None:
    rows = journal.read(folder / "log.csv")
    assert [r.step for r in rows] == [1, 2, 3]
    assert rows[1] == row(2, 32.0)
    assert rows[2].psnr_y is None
    head = (folder / "log.csv").read_text().splitlines()[0]
    assert head == "step,minutes,rate,loss,images_per_second,waiting,psnr_y"


def test_going_on_drops_what_a_kill_lost(folder: Path) -> None:
    with (folder / "log.csv").open("a") as file:
        file.write("4,0.4,0.00")  # cut short by the kill
    again = Journal(folder, 2)
    again.add(row(3))
    again.add(row(4))
    assert [r.step for r in journal.read(folder / "log.csv")] == [1, 2, 3, 4]


def test_a_new_run_begins_a_new_log(folder: Path) -> None:
    Journal(folder, 0)
    assert journal.read(folder / "log.csv") == []


def test_the_curve_is_a_picture(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    path = journal.draw(folder)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_matplotlib(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(BackendUnavailable, match=r"ppsr\[train\]"):
        journal.draw(folder)
