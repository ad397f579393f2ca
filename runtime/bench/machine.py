"""What numbers were measured on: the machine and the versions of what takes part."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ppsr.runtime.versions import installed

PACKAGES = (
    *("ppsr", "numpy", "pyvips", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx", "cuda-bindings"),
)
PATIENCE = 10
"""Seconds that nvidia-smi may take."""


def machine() -> dict[str, Any]:
    """Say what the numbers were measured on; ``gpu`` only where NVIDIA's driver names one."""
    allowed = getattr(os, "sched_getaffinity", None)
    found = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(allowed(0)) if allowed else os.cpu_count(),
        "system": platform.platform(),
    }
    gpu = _gpu()
    return {**found, "gpu": gpu} if gpu else found


def versions() -> dict[str, str]:
    """Return the versions of what takes part and is installed."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


def load() -> float | None:
    """Return how many processes wanted to run, on average over the last minute; None: unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none.
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    split = (line.partition(":") for line in lines)
    # Virtual machines shorten names; family and model still tell one generation from another.
    known = {key.strip(): value.strip() for key, _, value in split}
    name = known.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in known and "model" in known:
        name += f" (family {known['cpu family']}, model {known['model']})"
    return name


def _gpu() -> str | None:
    """Name the GPUs and their driver; None where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return "; ".join(lines) if done.returncode == 0 and lines else None
