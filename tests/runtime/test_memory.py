from __future__ import annotations

from pathlib import Path

import pytest

from ppsr.models.errors import PpsrError
from ppsr.runtime.memory import BYTES_PER_PIXEL, free_bytes, require_memory


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


def test_says_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    root = machine(tmp_path, MEMINFO)
    enough = 800 * 1024 // BYTES_PER_PIXEL
    require_memory(5, 10, enough, root)
    with pytest.raises(PpsrError, match=r"3000 x 2000 needs about 105\.\d GB .* 0\.0 GB are free"):
        require_memory(3000, 2000, 6_016_000, root)


def test_a_system_that_does_not_tell_is_trusted(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
    require_memory(10**6, 10**6, 10**12, tmp_path)
