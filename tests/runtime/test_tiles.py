from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppsr.models.errors import UsageError
from ppsr.runtime.sidecar import ShapeRange
from ppsr.runtime.tiles import Axis, Tiling, cut, tiles_for

GRIDS = st.integers(1, 60).map(lambda count: 16 * count)


@given(size=GRIDS, tile=GRIDS.filter(lambda tile: tile >= 64), overlap=st.sampled_from([16, 32]))
def test_tiles_cover_the_side_on_the_grid_with_the_overlap(
    size: int, tile: int, overlap: int
) -> None:
    axis = cut(size, tile, overlap)
    assert axis.length <= tile
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.length == size
    assert not any(start % 16 for start in axis.starts)
    for start, following in zip(axis.starts, axis.starts[1:], strict=False):
        assert start + axis.length - following >= overlap
    fewer = len(axis.starts) - 1
    assert fewer == 0 or tile + (fewer - 1) * (tile - overlap) < size


@given(size=GRIDS, overlap=st.sampled_from([16, 32, 48]), scale=st.sampled_from([2, 3, 4]))
def test_weights_add_up_to_one(size: int, overlap: int, scale: int) -> None:
    axis = cut(size, 96, overlap)
    total = np.zeros(size * scale)
    for start, weight in zip(axis.starts, axis.weights(scale), strict=True):
        assert weight.dtype == np.float32
        assert weight.min() > 0
        total[start * scale : (start + axis.length) * scale] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_weights_rise_slowly() -> None:
    axis = cut(320, 192, 64)
    assert axis.starts == (0, 128)
    first, second = axis.weights(2)
    np.testing.assert_allclose(np.diff(second[:128]), 1 / 128, atol=1e-6)
    np.testing.assert_allclose(first, second[::-1], atol=1e-6)
    assert (first[:256] == 1).all()


def test_no_tile_is_larger_than_it_needs_to_be() -> None:
    assert cut(272, 256, 32) == cut(272, 160, 32)
    assert cut(256, 256, 32).starts == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "tile as a multiple of 16 from 64 up, got 100"),
        ({"tile": 48}, "tile as a multiple of 16 from 64 up, got 48"),
        ({"tile": 64.0}, "got 64.0"),
        ({"overlap": 0}, "overlap as a multiple of 16 from 16 up, got 0"),
        ({"tile": 64, "overlap": 48}, "at most half a tile, got 48 of 64"),
        ({"max_memory": 0}, "memory in bytes, more than 0, got 0"),
    ],
)
def test_senseless_tilings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Tiling(**options)


def test_an_engine_gets_the_largest_tile_that_a_profile_takes() -> None:
    small = ShapeRange((32, 32), (64, 64), (256, 256))
    large = ShapeRange((128, 128), (544, 960), (1088, 1920))
    assert tiles_for((64, 2000), [small, large]) == ((32, 32), (64, 256))
    assert tiles_for((2000, 2000), [small, large]) == ((128, 128), (1088, 1920))
    assert tiles_for((1920, 1088), [large]) == ((128, 128), (1088, 1088))
    assert tiles_for((2000, 3000), []) == ((16, 16), (2000, 3000))


def test_no_tile_is_smaller_than_an_engine_takes() -> None:
    assert cut(1200, 1088, 32).length < 640
    assert cut(1200, 1088, 32, 1024) == Axis((0, 176), 1024)


@pytest.mark.parametrize("tile", [16, 32, 48])
def test_an_engine_of_tiny_tiles_gets_a_smaller_overlap(tile: int) -> None:
    axis = cut(160, tile, 96)
    assert axis.length == tile
    total = np.zeros(160 * 2)
    for start, weight in zip(axis.starts, axis.weights(2), strict=True):
        total[2 * start : 2 * (start + tile)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
