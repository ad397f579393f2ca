from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ppsr.models.errors import PpsrError
from ppsr.runtime.memory import (
    BYTES_PER_PIXEL,
    budget,
    choose_tile,
    free_bytes,
    give_back_memory,
    require_memory,
)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  900 kB\nMemFree: 10 kB\nMemAvailable:  800 kB\n"}


def test_the_machine_alone(tmp_path: Path) -> None:
    assert free_bytes(machine(tmp_path, MEMINFO)) == 800 * 1024


def test_the_tightest_parent_of_a_version_2_group_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/memory.current": "1\n",
        "sys/fs/cgroup/outer/memory.max": "5000\n",
        "sys/fs/cgroup/outer/memory.current": "3000\n",
        "sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 500\n",
    }
    assert free_bytes(machine(tmp_path, MEMINFO | files)) == 2500


def test_version_1_groups(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
    }
    assert free_bytes(machine(tmp_path, MEMINFO | files)) == 0


def test_a_part_of_what_is_free_is_taken(tmp_path: Path) -> None:
    assert budget(root=machine(tmp_path, MEMINFO)) == int(0.8 * 800 * 1024)


def test_a_limit_counts_what_the_process_has_already(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/self/statm": "900 25 3 4 5\n"})
    page = os.sysconf("SC_PAGE_SIZE")
    assert budget(10**9, root) == 10**9 - 25 * page
    assert budget(10**9, tmp_path / "none") == 10**9


def test_a_system_that_does_not_tell_is_trusted(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
    assert budget(root=tmp_path) is None


def test_giving_back_memory_harms_nothing() -> None:
    """What is in use stays, however often it is called and whatever was freed before."""
    kept = [np.full(50_000, value, np.uint8) for value in range(100)]
    for _ in range(3):
        freed = [bytearray(200_000) for _ in range(50)]
        del freed
        give_back_memory()
    assert [int(one[0]) for one in kept] == list(range(100))
    assert all((one == one[0]).all() for one in kept)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", None)
    give_back_memory()


def test_a_c_library_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl's, as of Alpine."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    give_back_memory()


def test_a_tile_is_as_large_as_fits() -> None:
    size = (4320, 7680)
    assert choose_tile(size, size, 2, 10**12) == size
    sides = [choose_tile(size, size, 2, limit * 10**9)[0] for limit in (2, 4, 8)]
    assert sides == sorted(sides)
    assert sides[0] >= 128
    assert not any(side % 16 for side in sides)
    for limit in (2, 4, 8):
        tile = choose_tile(size, size, 2, limit * 10**9)
        assert tile[0] * tile[1] * BYTES_PER_PIXEL < limit * 10**9
        require_memory(tile, size, 2, limit * 10**9)
        with pytest.raises(PpsrError, match="may be taken; allow more, free some, or use"):
            require_memory((2 * tile[0], tile[1]), size, 2, limit * 10**9)
    with pytest.raises(PpsrError, match=r"tiles of 64 x 64 of this picture need about 0\.\d\d GB"):
        choose_tile(size, size, 2, 10**7)
    assert choose_tile((48, 4320), (48, 4320), 2, 10**9)[0] == 48
    assert choose_tile(size, size, 2, None) == size
    with pytest.raises(PpsrError, match="tiles of 192 x 192"):
        choose_tile(size, size, 2, 6 * 10**8, 192)
    with pytest.raises(PpsrError, match=r"tiles of 16 x 32 .* 0\.00 GB may be taken"):
        choose_tile((16, 32), (16, 32), 2, -(10**6))
