"""Peak memory of one model on one picture, in a process of its own.

What a process once took it may keep, so two models in one process cannot be told apart. Linux says
in VmHWM how much was resident at most; elsewhere nothing is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ppsr.models.errors import PpsrError
from ppsr.runtime.backend import Device
from ppsr.runtime.open_model import open_model
from ppsr.runtime.sidecar import Size
from ppsr.runtime.tiles import WHOLE

from .inputs import Input
from .models import Model

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Resident memory of the host, bytes; what a GPU holds of its own is not in it."""

    model: str
    picture: str
    size: Size
    """H W of the input."""
    loaded: int | None
    """The most until the model is loaded: Python, packages, weights. None: unknown."""
    peak: int | None
    """The most until one picture is larger. None: the system does not tell, or it failed."""

    def to_json(self) -> dict[str, Any]:
        """Spell it for JSON."""
        return asdict(self)


def measure_memory(
    models: Sequence[Model], one: Input, device: Device, threads: int | None, scale: int | None
) -> list[Memory]:
    """Run each model once on ``one``, each in a new process."""
    found = []
    with TemporaryDirectory(prefix="ppsr-bench-") as folder:
        path = Path(folder, "picture.npy")
        np.save(path, one.rgb)
        for model in models:
            loaded, peak = _ask(model.given, path, device, threads, scale)
            found.append(Memory(model.name, one.name, one.size, loaded, peak))
    return found


def _ask(
    given: str, path: Path, device: Device, threads: int | None, scale: int | None
) -> tuple[int | None, int | None]:
    """Return what the other process tells; nothing where it failed or was killed."""
    if sys.platform != "linux":
        return None, None
    order = json.dumps([given, str(path), device, threads, scale])
    command = [sys.executable, "-m", "ppsr.runtime.bench.memory", order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, None
    loaded, peak = json.loads(done.stdout.splitlines()[-1])
    return loaded, peak


def peak_bytes(status: Path = STATUS) -> int | None:
    """Return how much memory of this process was resident at most; None where unknown."""
    try:
        rows = (line.split() for line in status.read_text().splitlines())
        return next((1024 * int(row[1]) for row in rows if row[:1] == ["VmHWM:"]), None)
    except OSError:
        return None


def main(order: str) -> int:
    """Do what ``_ask`` orders, print [loaded, peak] as JSON -> the exit status."""
    given, path, device, threads, scale = json.loads(order)
    try:
        with open_model(given, device, threads, scale=scale) as upscaler:
            loaded = peak_bytes()
            upscaler.upscale(np.load(path), tiling=WHOLE)
    except (PpsrError, MemoryError):
        return 1
    print(json.dumps([loaded, peak_bytes()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
