"""From the rows of a picture to the rows of a larger one: tiles through the model, blended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import GRID

from .backend import Backend
from .canvas import Canvas, Floats
from .memory import DEVICE_BYTES, budget, choose_tile, require_memory
from .pixels import DTYPES, Array, Pixels
from .routing import Mask
from .runner import Pure, Runner
from .sidecar import Size
from .tiles import SMALLEST, Tiling, cut, tiles_for

CHUNK = 128
"""Rows of output that are converted and yielded together."""


class Stream:
    """One picture on its way: an iterator over bands of rows, from top to bottom, once.

    Each band is H' S*W C of ``dtype``. What it took is known after the last one. Raises
    PictureError where the picture proves damaged, PpsrError where the model fails or memory does
    not suffice.
    """

    def __init__(
        self, backend: Backend, picture: Pixels, dtype: np.dtype[Any] | None, tiling: Tiling
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f"expected {', '.join(map(str, DTYPES))}, got {dtype}")
        self.dtype = dtype or picture.dtype
        self._backend, self._runner = backend, Runner(backend)
        self._scale = backend.artefact.scale
        self._height, self._width, channels = picture.shape
        self._canvas = canvas = Canvas(picture, _least(backend))
        least, tile = _choose(backend, (canvas.height, canvas.width), tiling)
        self._down = cut(canvas.height, tile[0], tiling.shared, least[0])
        self._across = cut(canvas.width, tile[1], tiling.shared, least[1])
        self._pure = self._seen = 0
        self.shape = (self._scale * self._height, self._scale * self._width, channels)
        """Of the larger picture, H W C."""
        self.tiles = len(self._down.starts) * len(self._across.starts)
        """1: as a whole."""

    @property
    def milliseconds(self) -> float:
        """As in ``Result``, so far."""
        return self._runner.milliseconds

    @property
    def routing_milliseconds(self) -> float | None:
        """As in ``Result``, so far."""
        return self._runner.routing

    @property
    def notes(self) -> tuple[str, ...]:
        """What is lost on the way, a clause each."""
        beyond = (self._canvas.low, self._canvas.high) != (0, 1)
        lost = beyond and self.dtype != np.float32
        return ("values beyond 0 to 1 clipped",) if lost else ()

    @property
    def pure(self) -> float | None:
        """As in ``Result``, of the rows so far."""
        return self._pure / self._seen if self._seen else None

    def __iter__(self) -> Iterator[Array]:
        """Run tile after tile and yield the bands."""
        starts, length = self._down.starts, self._down.length
        weights = self._down.weights(self._scale)
        carried: list[Floats] = []
        for index, top in enumerate(starts):
            planes = self._band(top, top + length)
            if len(starts) > 1:
                for plane in planes:
                    plane *= weights[index][:, None, None]
            for plane, rest in zip(planes, carried, strict=bool(carried)):
                plane[: len(rest)] += rest
            end = (starts[index + 1] if index + 1 < len(starts) else self._height) - top
            yield from self._finished([plane[: end * self._scale] for plane in planes])
            carried = [plane[end * self._scale :].copy() for plane in planes]

    def _finished(self, planes: list[Floats]) -> Iterator[Array]:
        """Turn rows that nothing is added to any more into pixels, some at a time."""
        for top in range(0, len(planes[0]), CHUNK):
            colours, *alpha = (plane[top : top + CHUNK, : self.shape[1]] for plane in planes)
            yield self._canvas.merge(colours, alpha[0] if alpha else None, self.dtype)

    def _band(self, top: int, bottom: int) -> list[Floats]:
        """Enlarge these rows of every plane. -> S*(bottom - top) S*W' 3, alpha with 1 channel."""
        planes = self._canvas.planes(np.arange(top, bottom))
        colours, pure = self._enlarge(planes[0], self._mask(0, top, bottom))
        if pure is not None:
            fresh = pure[max(0, self._counted - top) : self._height - top, : self._width]
            self._pure += int(fresh.sum())
            self._seen += fresh.size
        if len(planes) == 1:
            return [colours]
        alpha = planes[1][..., 0]
        if alpha.min() == alpha.max():
            return [colours, np.full((*colours.shape[:2], 1), alpha[0, 0])]
        enlarged, _ = self._enlarge(planes[1], self._mask(1, top, bottom))
        return [colours, _within(enlarged.mean(-1), alpha, self._scale)]

    @property
    def _counted(self) -> int:
        """Rows of the picture whose share of pure pixels is known."""
        return self._seen // self._width

    def _enlarge(self, plane: Floats, pure: Pure | None) -> tuple[Floats, Pure | None]:
        """Run the tiles of one band and blend them across. H' W' 3 -> S*H' S*W' 3, and its mask."""
        scale, (starts, length) = self._scale, (self._across.starts, self._across.length)
        if len(starts) == 1:
            output, found = self._runner.run(plane, pure)
            return output, found if self.tiles == 1 else pure
        height, width = plane.shape[:2]
        band = np.zeros((scale * height, scale * width, 3), np.float32)
        for start, weight in zip(starts, self._across.weights(scale), strict=True):
            part = slice(start, start + length)
            tile, _ = self._runner.run(plane[:, part], None if pure is None else pure[:, part])
            band[:, scale * start : scale * (start + length)] += tile * weight[:, None]
        return band, pure

    def _mask(self, plane: int, top: int, bottom: int) -> Pure | None:
        """Rows of the mask of the whole picture; None where the model finds its own or has none."""
        settings, canvas = self._backend.artefact.pure_pass, self._canvas
        if settings is None or (self.tiles == 1 and not self._backend.wants_active):
            return None
        return self._runner.mask(Mask(settings, canvas, plane), top, bottom)


def _least(backend: Backend) -> Size:
    """What a picture is padded to, at least: an engine's profiles may begin higher."""
    if not backend.profiles:
        return GRID, GRID
    return min((profile.min for profile in backend.profiles), key=lambda size: size[0] * size[1])


def _choose(backend: Backend, size: Size, tiling: Tiling) -> tuple[Size, Size]:
    """Choose the size of a tile, at least and at most; the picture's own: as a whole."""
    least, largest = tiles_for(size, backend.profiles)
    scale, on_host = backend.artefact.scale, backend.device == "CPU"
    free = budget(tiling.max_memory) if on_host else tiling.max_memory
    if not tiling.cut:
        require_memory(size, size, scale, free)
        return least, size
    if tiling.tile is not None:
        tile = (min(tiling.tile, largest[0]), min(tiling.tile, largest[1]))
        require_memory(tile, size, scale, free)
    else:
        if free is None and not on_host and not backend.profiles:
            free = DEVICE_BYTES
        smallest = max(SMALLEST, 2 * tiling.shared)
        tile = choose_tile(largest, size, scale, free, smallest)
    if any(one < low for one, low in zip(tile, least, strict=True)):
        raise UsageError(
            f"this engine takes tiles from {least[0]} x {least[1]} on, not {tile[0]} x {tile[1]}; "
            "use larger tiles"
        )
    return least, tile


def _within(alpha: npt.NDArray[np.float32], source: Floats, scale: int) -> Floats:
    """Keep enlarged alpha within what its pixel and the neighbours of that have: no ringing.

    alpha: S*H S*W; source: H W -> S*H S*W 1.
    """
    framed = np.pad(source, 1, mode="edge")
    rows, columns = source.shape
    around = [framed[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    low, high = (
        bound(around, axis=0).repeat(scale, 0).repeat(scale, 1) for bound in (np.min, np.max)
    )
    return np.clip(alpha, low, high)[..., None]
