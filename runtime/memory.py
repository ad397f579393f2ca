"""How much memory this process may still take, so that it can refuse instead of being killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ppsr.models.errors import PpsrError

BYTES_PER_PIXEL = 17_500
"""Peak memory of the network per low-resolution pixel of the padded picture.

The largest tensor holds the attention logits: 256 keys x 4 heads x 4 bytes, 3 to 4 copies alive.
Measured: 17.2 kB of resident memory per pixel for the dense FP32 model on 512 x 768 pixels,
onnxruntime 1.31 on the CPU; a routed one needs less.
"""


def require_memory(height: int, width: int, pixels: int, root: Path = Path("/")) -> None:
    """Raise PpsrError where a picture needs more memory than is free.

    ``pixels`` counts the padded picture. Does nothing where the system does not tell.
    """
    free = free_bytes(root)
    needed = pixels * BYTES_PER_PIXEL
    if free is not None and needed > free:
        raise PpsrError(
            f"this picture of {height} x {width} needs about {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; use a smaller picture"
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
