"""Tiles cover every voxel, start at the geometry's phase, and are no larger than need be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.inference.tiling import gaussian_weights, large_tile, tile_origins, tile_starts
from hpcseg.patches.geometry import FovealGeometry


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 100), st.integers(-7, 0))
def test_starts_cover_the_axis_and_none_is_superfluous(length: int, tile: int, step: int, first: int) -> None:
    step = min(step, tile)
    starts = tile_starts(length, tile, step, first)
    assert starts[0] == first
    assert starts[-1] + tile >= length
    assert len(starts) == 1 or starts[-2] + tile < length


@given(
    st.tuples(*[st.integers(1, 60)] * 3), st.sampled_from([3, 5]), st.integers(1, 4), st.integers(8, 40), st.booleans()
)
def test_tiles_cover_every_voxel_at_the_phase(
    shape: tuple[int, int, int], kernel: int, levels: int, patch: int, overlapping: bool
) -> None:
    geometry = FovealGeometry(patch // 8 * 8, kernel, levels)
    covered = np.zeros(shape, bool)
    for origin in tile_origins(shape, geometry, geometry.patch // 2 if overlapping else geometry.patch):
        covered[tuple(slice(max(o, 0), o + geometry.patch) for o in origin)] = True
        if not overlapping or geometry.patch // 2 % geometry.period == 0:
            assert all(o % geometry.period == geometry.phase for o in origin)
    assert covered.all()


@given(st.tuples(*[st.integers(1, 700)] * 3), st.sampled_from([3, 5]), st.integers(1, 4))
def test_large_tile_is_a_multiple_of_the_period_within_the_limit(
    shape: tuple[int, int, int], kernel: int, levels: int
) -> None:
    geometry = FovealGeometry(72, kernel, levels)
    tile = large_tile(shape, geometry, limit=96)
    assert tile % geometry.period == 0
    assert geometry.period <= tile <= 96


def test_gaussian_weights_are_symmetric_and_have_the_published_width() -> None:
    weights = gaussian_weights(9, sigma=0.5)
    assert weights.shape == (9, 9, 9)
    assert weights[4, 4, 4] == 1
    assert weights[4, 4, 0] == pytest.approx(np.exp(-0.5 * (4 / 4.5) ** 2))
    assert np.array_equal(weights, weights[::-1, :, ::-1])
