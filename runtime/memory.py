"""How much memory this process may still take, and how large tiles may be for it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ppsr.models.errors import PpsrError
from ppsr.models.pure_pass import GRID

from .artefact import Tuning
from .sidecar import Size
from .tiles import SMALLEST

BYTES_PER_PIXEL = 17_500
"""Peak memory of the network per low-resolution pixel of the padded tile.

The largest tensor holds the attention logits: 256 keys x 4 heads x 4 bytes, 3 to 4 copies alive.
Measured: 17.2 kB of resident memory per pixel for the dense FP32 model on 512 x 768 pixels,
onnxruntime 1.31 on the CPU; a routed one needs less.
"""
LESS_PER_PIXEL: Mapping[tuple[Tuning, str], int] = {
    ("onnxruntime", "CPU"): 3_500,
    ("openvino", "CPU, OpenVINO"): 8_000,
    ("openvino", "CPU, OpenVINO in BF16"): 8_000,
}
"""The same of graphs that never hold all logits, by what they are made for and where they run.

From 256 x 256 to 512 x 512 onnxruntime takes 2.9 kB a pixel more, OpenVINO in BF16 4.0 kB
(``benchmarks/speed.py sizes``); FP32 was given the rest of the 8 kB without such a measurement.
"""
BYTES_PER_OUTPUT = 40
"""Of a row of tiles, per pixel of output at most: two times RGB and alpha of float32, one being
made and one being encoded, and the input's share."""
SHARE = 0.8
"""Of what the machine has left, used without being told."""
DEVICE_BYTES = 8 * 10**9
"""What a GPU is taken to have for an ONNX file: onnxruntime does not tell what is free."""


def bytes_per_pixel(tuned_for: Tuning, device: str) -> int:
    """What the network takes per low-resolution pixel of a tile; device: as backends say it."""
    return LESS_PER_PIXEL.get((tuned_for, device), BYTES_PER_PIXEL)


def choose_tile(
    largest: Size,
    size: Size,
    scale: int,
    free: int | None,
    least: int = SMALLEST,
    per_pixel: int = BYTES_PER_PIXEL,
) -> Size:
    """Return the largest tile that fits into memory: ``largest``, or a square one.

    largest: what the model takes at once; size: the padded picture; free: bytes, None where they
    are unknown; then ``largest`` too. Raises PpsrError where not even tiles of ``least`` fit.
    """
    if free is None or _needed(largest, size, scale, per_pixel) <= free:
        return largest
    tile = largest
    for side in range(max(largest) // GRID * GRID, least - 1, -GRID):
        tile = (min(side, largest[0]), min(side, largest[1]))
        if _needed(tile, size, scale, per_pixel) <= free:
            return tile
    raise _lack(_needed(tile, size, scale, per_pixel), tile, free)


def require_memory(
    tile: Size, size: Size, scale: int, free: int | None, per_pixel: int = BYTES_PER_PIXEL
) -> None:
    """Raise PpsrError where tiles of this size need more than there is, as in ``choose_tile``."""
    needed = _needed(tile, size, scale, per_pixel)
    if free is not None and needed > free:
        raise _lack(needed, tile, free)


def budget(max_memory: int | None = None, root: Path = Path("/")) -> int | None:
    """Return how many bytes more this process may take; None where the system does not tell."""
    if max_memory is None:
        free = free_bytes(root)
        return None if free is None else int(SHARE * free)
    resident = _text(root / "proc/self/statm").split()
    return max_memory - (int(resident[1]) * os.sysconf("SC_PAGE_SIZE") if resident else 0)


def give_back_memory() -> None:
    """Return what is freed, but kept by glibc, to the system: between tiles, else it adds up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _needed(tile: Size, size: Size, scale: int, per_pixel: int) -> int:
    band = min(tile[0], size[0]) * size[1] * scale**2
    return tile[0] * tile[1] * per_pixel + band * BYTES_PER_OUTPUT


def _lack(needed: int, tile: Size, free: int) -> PpsrError:
    return PpsrError(
        f"tiles of {tile[0]} x {tile[1]} of this picture need about {needed / 1e9:.2f} GB of "
        f"memory, {max(free, 0) / 1e9:.2f} GB may be taken; allow more, free some, or "
        "use smaller tiles or a smaller picture"
    )


def free_bytes(root: Path = Path("/")) -> int | None:
    """Return the free memory of the machine or of the tightest cgroup, None where unknown."""
    known = [size for size in (_machine(root), *_groups(root)) if size is not None]
    return min(known, default=None)


def _machine(root: Path) -> int | None:
    """MemAvailable of Linux, which counts caches that can be dropped as free."""
    kibibytes = _fields(root / "proc/meminfo").get("MemAvailable:")
    return None if kibibytes is None else kibibytes * 1024


def _groups(root: Path) -> Iterator[int | None]:
    """What is left under the limit of every cgroup (version 2 or 1) this process is in."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cache = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        top = root / "sys/fs/cgroup" / base
        own = top / path.lstrip("/")
        for group in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            most, taken = _text(group / limit).strip(), _text(group / used).strip()
            if most.isdigit() and taken.isdigit():
                dropped = _fields(group / "memory.stat").get(cache, 0)
                yield max(int(most) - int(taken) + dropped, 0)


def _fields(path: Path) -> dict[str, int]:
    """Read lines of ``name number ...``."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
