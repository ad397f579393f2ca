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
from .memory import (
    DEVICE_BYTES,
    budget,
    bytes_per_pixel,
    choose_tile,
    give_back_memory,
    require_memory,
)
from .pixels import DTYPES, Array, Pixels
from .routing import Mask, Skipped, mask_of
from .runner import Pure, Runner
from .sidecar import Size
from .tiles import SMALLEST, Tiling, cut, tiles_for

CHUNK = 32
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
        self._backend, self._runner, self._picture = backend, Runner(backend), picture
        self._scale = backend.artefact.scale
        self._height, self._width, channels = picture.shape
        self._canvas = canvas = Canvas(picture, _least(backend))
        least, tile = _choose(backend, (canvas.height, canvas.width), tiling)
        self._down = cut(canvas.height, tile[0], tiling.shared, least[0])
        self._across = cut(canvas.width, tile[1], tiling.shared, least[1])
        self._pure = self._seen = 0
        self._blocks = backend.artefact.blocks
        self._attended = np.zeros((self._height, self._width) if self._blocks else (0, 0), np.uint8)
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

    @property
    def kept(self) -> tuple[float, ...] | None:
        """As in ``Result``, once all rows are through."""
        if self._blocks is None:
            return None
        kept = (np.count_nonzero(self._attended > block) for block in range(self._blocks))
        return tuple(count / self._attended.size for count in kept)

    @property
    def skipped(self) -> Skipped | None:
        """What was skipped where, once all rows are through; None where that is not known."""
        artefact, blocks = self._backend.artefact, self._blocks
        if artefact.pure_pass is not None:
            return Skipped(mask_of(artefact.pure_pass, self._picture))
        if self.kept is None or blocks is None:
            return None
        shares = " ".join(f"{100 * (1 - share):.0f}" for share in self.kept)
        return Skipped(lambda top, end: blocks - self._attended[top:end], blocks, f"{shares} %")

    def __iter__(self) -> Iterator[Array]:
        """Run tile after tile and yield the bands."""
        above: list[Floats] = []
        for index in range(len(self._down.starts)):
            rows, above = self._band(index, above)
            for top in range(0, len(rows), CHUNK):
                yield rows[top : top + CHUNK]

    def _band(self, index: int, above: list[Floats]) -> tuple[Array, list[Floats]]:
        """Enlarge one row of tiles. -> the rows that are done, and what is added to the next ones.

        ``above`` is what the row of tiles before left, a plane each. Columns become pixels as soon
        as nothing is added to them any more: floats of the whole width are only kept where rows of
        tiles overlap.
        """
        starts, length, scale = self._down.starts, self._down.length, self._scale
        top = starts[index]
        below = starts[index + 1] if index + 1 < len(starts) else self._height
        end = scale * (below - top)
        weight = self._down.weights(scale)[index][:, None, None]
        rows = np.empty((end, *self.shape[1:]), self.dtype)
        kept: list[list[Floats]] = []
        left = 0
        for planes in zip(*self._planes(top, top + length), strict=True):
            right = left + planes[0].shape[1]
            weighted = [plane * weight for plane in planes]
            for plane, rest in zip(weighted, above, strict=bool(above)):
                plane[: len(rest)] += rest[:, left:right]
            colours, *alpha = (plane[:end, : self.shape[1] - left] for plane in weighted)
            rows[:, left:right] = self._canvas.merge(
                colours, alpha[0] if alpha else None, self.dtype
            )
            kept.append([plane[end:].copy() for plane in weighted])
            left = right
        return rows, [np.concatenate(parts, axis=1) for parts in zip(*kept, strict=True)]

    def _planes(self, top: int, bottom: int) -> list[Iterator[Floats]]:
        """Enlarge these rows of every plane, as ``_columns`` does; alpha has 1 channel."""
        colours, *alpha = self._canvas.planes(np.arange(top, bottom))
        planes = [self._columns(colours, self._mask(0, top, bottom), top)]
        if alpha:
            planes.append(self._alpha(alpha[0], top))
        return planes

    def _columns(
        self, plane: Floats, pure: Pure | None, top: int | None = None
    ) -> Iterator[Floats]:
        """Run the tiles of one band from left to right, and blend them across.

        H' W' 3 and its mask -> S*H' w 3: columns that are done, until they are S*W' together. What
        is skipped is counted where the rows begin at ``top``.
        """
        starts, length, scale = self._across.starts, self._across.length, self._scale
        shared = np.empty((scale * len(plane), 0, 3), np.float32)
        for start, following, weight in zip(
            starts, (*starts[1:], self._canvas.width), self._across.weights(scale), strict=True
        ):
            part = slice(start, start + length)
            ran = self._runner.run(plane[:, part], None if pure is None else pure[:, part])
            tile = ran.pixels * weight[:, None]
            tile[:, : shared.shape[1]] += shared
            end = scale * (following - start)
            shared = tile[:, end:].copy()
            if top is not None and ran.attended is not None:  # Where tiles overlap the last tells.
                into = self._attended[top:, part]
                into[: len(plane)] = ran.attended[: len(into), : into.shape[1]]
            if self.tiles == 1:
                pure = ran.pure
            else:
                give_back_memory()
            yield tile[:, :end]
        if top is not None and pure is not None:
            self._count(pure, top)

    def _count(self, pure: Pure, top: int) -> None:
        known = self._seen // self._width
        fresh = pure[max(0, known - top) : self._height - top, : self._width]
        self._pure += int(fresh.sum())
        self._seen += fresh.size

    def _alpha(self, plane: Floats, top: int) -> Iterator[Floats]:
        """Enlarge alpha, of three equal channels, by the network only where it is not constant."""
        scale, height = self._scale, len(plane)
        if plane.min() == plane.max():
            for start, following in zip(
                self._across.starts, (*self._across.starts[1:], self._canvas.width), strict=True
            ):
                yield np.full((scale * height, scale * (following - start), 1), plane[0, 0, 0])
            return
        framed = np.pad(plane[..., 0], 1, mode="edge")
        left = 0
        for columns in self._columns(plane, self._mask(1, top, top + height)):
            right = left + columns.shape[1] // scale
            yield _within(columns.mean(-1), framed[:, left : right + 2], scale)
            left = right

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
    scale, on_host = backend.artefact.scale, backend.device.startswith("CPU")
    free = budget(tiling.max_memory) if on_host else tiling.max_memory
    per_pixel = bytes_per_pixel(backend.artefact.tuned_for, backend.device)
    if not tiling.cut:
        require_memory(size, size, scale, free, per_pixel)
        return least, size
    if tiling.tile is not None:
        tile = (min(tiling.tile, largest[0]), min(tiling.tile, largest[1]))
        require_memory(tile, size, scale, free, per_pixel)
    else:
        if free is None and not on_host and not backend.profiles:
            free = DEVICE_BYTES
        smallest = max(SMALLEST, 2 * tiling.shared)
        tile = choose_tile(largest, size, scale, free, smallest, per_pixel)
    if any(one < low for one, low in zip(tile, least, strict=True)):
        raise UsageError(
            f"this engine takes tiles from {least[0]} x {least[1]} on, not {tile[0]} x {tile[1]}; "
            "use larger tiles"
        )
    return least, tile


def _within(alpha: npt.NDArray[np.float32], framed: Floats, scale: int) -> Floats:
    """Keep enlarged alpha within what its pixel and the neighbours of that have: no ringing.

    alpha: S*H S*W; framed: what was enlarged, and one more pixel all around -> S*H S*W 1.
    """
    rows, columns = (size // scale for size in alpha.shape)
    around = [framed[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    low, high = (
        bound(around, axis=0).repeat(scale, 0).repeat(scale, 1) for bound in (np.min, np.max)
    )
    return np.clip(alpha, low, high)[..., None]
