"""Measuring what masking saves: a masked model against the dense one, run in turns."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import UsageError

from .metrics import psnr
from .tiles import WHOLE
from .upscaler import Upscaler
from .versions import installed

PACKAGES = (
    *("ppsr", "numpy", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx", "cuda-bindings"),
)


@dataclass(frozen=True)
class Row:
    """One picture, or all of them; times are medians in milliseconds."""

    picture: str
    size: tuple[int, int] | None
    """H W of the input; None for the total."""
    pixels: int
    pure: float | None
    """Share of pure pixels."""
    masked_ms: float
    """Routing included."""
    dense_ms: float
    routing_ms: float | None
    """None where the graph routes itself."""
    psnr_db: float
    """Between the two outputs, RGB; inf where they are equal."""

    @property
    def ratio(self) -> float:
        """Above 1: masking is faster."""
        return self.dense_ms / self.masked_ms

    @property
    def routing_share(self) -> float | None:
        """Routing's part of the masked time; None where the graph routes itself."""
        return None if self.routing_ms is None else self.routing_ms / self.masked_ms

    def to_json(self) -> dict[str, Any]:
        """Spell the row for JSON, which has no inf: ``psnr_db`` null means equal outputs.

        ``routing_ms`` and ``routing_share`` null mean unknown: the graph routes itself.
        """
        finite = self.psnr_db if math.isfinite(self.psnr_db) else None
        extra = {"ratio": self.ratio, "routing_share": self.routing_share}
        return {**vars(self), **extra, "psnr_db": finite}


def measure(
    masked: Upscaler, dense: Upscaler, name: str, rgb: npt.NDArray[np.uint8], runs: int
) -> Row:
    """Run both models in turns on one picture, after a warm-up each. uint8 H W 3.

    Engines get two: the second run of a size records it.
    """
    for _ in range(1 if masked.device == "CPU" else 2):
        first, second = (each.upscale(rgb, tiling=WHOLE) for each in (masked, dense))
    masked_ms, dense_ms = [], []
    routing_ms: list[float | None] = []
    for _ in range(runs):
        first, second = (each.upscale(rgb, tiling=WHOLE) for each in (masked, dense))
        masked_ms.append(first.milliseconds)
        routing_ms.append(first.routing_milliseconds)
        dense_ms.append(second.milliseconds)
    height, width = rgb.shape[:2]
    return Row(
        picture=name,
        size=(height, width),
        pixels=height * width,
        pure=first.pure,
        masked_ms=median(masked_ms),
        dense_ms=median(dense_ms),
        routing_ms=_known(median, routing_ms),
        psnr_db=psnr(first.pixels, second.pixels),
    )


def require_comparable(masked: Upscaler, dense: Upscaler) -> None:
    """Raise UsageError where more than the mask tells the two models apart.

    They share scale, weights, precision, form and device; ``masked`` has Pure-Pass, ``dense`` not.
    """
    a, b = masked.artefact, dense.artefact
    for what, first, second, option in (
        ("scale", f"x{a.scale}", f"x{b.scale}", "the same --scale"),
        ("weights", a.weights_sha256[:12], b.weights_sha256[:12], "the same --weights"),
        ("precision", a.precision, b.precision, "--fp16, or both without it"),
        ("form", a.form, b.form, "the same --form"),
        (
            "device",
            masked.device,
            dense.device,
            "the same --target, and run both with one --device",
        ),
    ):
        if first != second:
            raise UsageError(
                f"expected two models of the same {what}, got {first} and {second}; "
                f"export both with {option}"
            )
    if a.pure_pass is None or b.pure_pass is not None:
        raise UsageError(
            f"expected a masked model against a dense one, got {a.model} against {b.model}; "
            "export the dense one with --model atd-light and name it after --against"
        )


def total(rows: Sequence[Row]) -> Row:
    """Add up the times; the share is over all pixels, the PSNR is that of the worst picture."""
    pixels = sum(row.pixels for row in rows)
    shares = [row.pure * row.pixels for row in rows if row.pure is not None]
    return Row(
        picture="all",
        size=None,
        pixels=pixels,
        pure=sum(shares) / pixels if shares else None,
        masked_ms=sum(row.masked_ms for row in rows),
        dense_ms=sum(row.dense_ms for row in rows),
        routing_ms=_known(sum, [row.routing_ms for row in rows]),
        psnr_db=min(row.psnr_db for row in rows),
    )


def _known(summary: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    """Summarise the values; None where one is unknown."""
    known = [value for value in values if value is not None]
    return summary(known) if len(known) == len(values) else None


def machine() -> dict[str, Any]:
    """Say what the numbers were measured on."""
    allowed = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_allowed": len(allowed(0)) if allowed else os.cpu_count(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what takes part and is installed."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
