"""The sizes that engines are built for."""

from __future__ import annotations

from collections.abc import Iterable

from ppsr.runtime.sidecar import ShapeRange, Size

from .options import Profile

DEFAULT_PROFILES = (
    Profile(min=(16, 16), opt=(192, 320), max=(512, 512)),
    Profile(min=(32, 32), opt=(544, 960), max=(1088, 1920)),
    Profile(min=(32, 32), opt=(960, 544), max=(1920, 1088)),
)
"""Small pictures, landscape and portrait ones up to full HD; kernels are tuned for ``opt``."""

ACTIVE_SHARE = 0.6
"""Of the pixels, at the optimum of a profile: photographs of B100 have about 40 % pure pixels."""


def shape_ranges(profiles: Iterable[Profile], takes_active: bool) -> list[ShapeRange]:
    """Add the numbers of active tokens: none, the usual share of ``opt``, all of ``max``."""
    return [
        ShapeRange(p.min, p.opt, p.max, _tokens(p.opt, p.max) if takes_active else None)
        for p in profiles
    ]


def _tokens(best: Size, most: Size) -> tuple[int, int, int]:
    return 0, round(ACTIVE_SHARE * best[0] * best[1]), most[0] * most[1]
