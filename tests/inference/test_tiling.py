"""Tiles cover every voxel, start at the geometry's phase, and are no larger than need be."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.inference.tiling import Tiling, axes_starts, axis_shares, large_tile, tile_starts
from hpcseg.patches.geometry import FovealGeometry, PaddedGeometry


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
    step = geometry.patch // 2 if overlapping else geometry.patch
    tiling = Tiling.of(shape, geometry, step, 0.5 if overlapping else None)
    share = np.zeros(shape)
    for tile in tiling:
        inside, own = tiling.places(tile)
        assert tiling.meets(tile) == bool(share[inside].size)
        assert [axis.start - part.start for axis, part in zip(inside, own, strict=True) if axis.stop > axis.start] == [
            origin for origin, axis in zip(tiling.origin(tile), inside, strict=True) if axis.stop > axis.start
        ]
        z, y, x = (axis[index, part] for axis, index, part in zip(tiling.shares, tile, inside, strict=True))
        share[inside] += z[:, None, None] * y[:, None] * x
        if step % geometry.period == 0:
            assert all(o % geometry.period == geometry.phase for o in tiling.origin(tile))
    np.testing.assert_allclose(share, 1, atol=1e-5)
    assert len(list(tiling)) == tiling.count


def test_planes_are_finished_when_no_later_layer_reaches_them() -> None:
    tiling = Tiling.of((40, 8, 8), FovealGeometry(16, 3, 2), 8, 0.5)
    assert tiling.starts[0] == [0, 8, 16, 24]
    assert [tiling.finished(layer) for layer in range(4)] == [8, 16, 24, 40]


@given(st.tuples(*[st.integers(1, 700)] * 3), st.sampled_from([3, 5]), st.integers(1, 4))
def test_large_tiles_are_multiples_of_the_period_within_the_limit_and_none_lies_beside_the_volume(
    shape: tuple[int, int, int], kernel: int, levels: int
) -> None:
    geometry = FovealGeometry(72, kernel, levels)
    tile = large_tile(shape, geometry, limit=96)
    assert tile % geometry.period == 0
    assert geometry.period <= tile <= 96
    for length, starts in zip(shape, axes_starts(shape, geometry.resized(tile), tile), strict=True):
        assert all(start + tile > 0 and start < length for start in starts)


def test_boxes_end_with_what_the_volumes_last_voxels_see() -> None:
    geometry = FovealGeometry(72, 5, 4)
    tiling = Tiling.of((68, 100, 141), geometry, 72, None)  # tiles begin at -4, 68 and 140
    assert tiling.boxes((0, 0, 0)) == [(edge,) * 3 for edge in geometry.inputs]
    last = [geometry.resized(own).inputs for own in (72, 32, 1)]
    assert tiling.boxes((0, 1, 2)) == list(zip(*last, strict=True))
    assert last[1] == (44, 32, 26, 23)
    padded = Tiling.of((20, 20, 20), PaddedGeometry(16, 4, 2), 16, None)
    assert padded.boxes((1, 1, 1)) == [(24, 24, 24)]


def test_large_tile_takes_the_least_input() -> None:
    geometry = FovealGeometry(72, 5, 4)
    assert large_tile((92, 92, 92), geometry, limit=96) == 96
    assert large_tile((130, 130, 130), geometry, limit=96) == 72  # two of 72 rather than two of 96
    assert large_tile((20, 20, 20), geometry, limit=96) == 24
    assert large_tile((20, 20, 20), geometry, limit=4) == 8  # never less than the period


def test_shares_are_gaussians_of_the_published_width() -> None:
    # Two tiles of 8 in steps of 4 about their centres at 3.5 and 7.5.
    shares = axis_shares(12, [0, 4], 8, sigma=0.5)
    one, other = (np.exp(-0.5 * ((5 - centre) / 4) ** 2) for centre in (3.5, 7.5))
    np.testing.assert_allclose(shares[:, 5], [one / (one + other), other / (one + other)], rtol=1e-6)
    np.testing.assert_array_equal(shares[:, :4], np.repeat([[1], [0]], 4, axis=1))
    np.testing.assert_allclose(shares[:, ::-1], shares[::-1], rtol=1e-6)


def test_shares_of_very_narrow_gaussians_do_not_vanish() -> None:
    np.testing.assert_allclose(axis_shares(100, [0, 32, 64], 64, sigma=0.001).sum(axis=0), 1, rtol=1e-6)


def test_without_a_sigma_all_tiles_count_alike() -> None:
    np.testing.assert_array_equal(axis_shares(6, [-2, 2], 4, None), [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
