"""A large picture through ppsr-run, in a process of its own, with its peak memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from skimage import data

from ppsr.runtime.pictures.decode import open_picture

HEIGHT, WIDTH = 4320, 7680
COMMAND = """
from ppsr.runtime.cli import main
main(standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """8K: a photo, mirrored again and again."""
    photo = pyvips.Image.new_from_array(data.coffee()).copy(interpretation="srgb")
    wide = photo.join(photo.fliphor(), "horizontal")
    four = wide.join(wide.flipver(), "vertical")
    path = tmp_path / "large.tif"
    four.replicate(7, 6).crop(0, 0, WIDTH, HEIGHT).tiffsave(str(path))
    return path


def run(*arguments: Any) -> float:
    """Run ppsr-run -> its peak memory, GB; what fork had of this process does not count."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e9


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_follows_the_tile_not_the_picture(
    tmp_path: Path, large: Path, write_model: Callable
) -> None:
    model = write_model(tmp_path / "model.onnx", form="routed")
    output = tmp_path / "larger.tif"
    peak = run(model, large, "-o", output, "--device", "cpu", "--max-memory", "3500M", "-q")
    assert peak < 0.45
    with open_picture(large) as before, open_picture(output) as after:
        assert after.shape == (2 * HEIGHT, 2 * WIDTH, 3)
        for top in (0, 2000, HEIGHT - 64):
            rows = before.rows(top, top + 64).repeat(2, 0).repeat(2, 1)
            np.testing.assert_array_equal(after.rows(2 * top, 2 * top + 128), rows)
