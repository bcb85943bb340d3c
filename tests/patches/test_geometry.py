"""Sizes and places of the levels: known ones, and what must hold for any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.errors import BadInput
from hpcseg.patches.geometry import FovealGeometry, Lattice, PaddedGeometry, target_lattice

GEOMETRIES = st.builds(
    FovealGeometry, patch=st.integers(1, 300), kernel=st.sampled_from([1, 3, 5, 7]), levels=st.integers(1, 6)
)


@pytest.mark.parametrize(
    "patch, kernel, features, inputs, origins, phase",
    [
        (72, 5, (72, 40, 24, 16), (84, 52, 36, 28), (-6, -16, -36, -76), 4),
        (64, 5, (64, 36, 22, 15), (76, 48, 34, 27), (-6, -16, -36, -76), 4),
        (72, 3, (72, 38, 21, 13), (78, 44, 27, 19), (-3, -8, -18, -38), 6),
        (64, 3, (64, 34, 19, 12), (70, 40, 25, 18), (-3, -8, -18, -38), 6),
    ],
)
def test_the_table_of_decisions(patch, kernel, features, inputs, origins, phase):
    geometry = FovealGeometry(patch, kernel, 4)
    assert (geometry.features, geometry.inputs, geometry.origins) == (features, inputs, origins)
    assert (geometry.phase, geometry.period) == (phase, 8)


@given(GEOMETRIES)
def test_phase_is_the_smallest_origin_at_which_every_level_starts_on_a_whole_voxel(geometry):
    def whole(position):
        return all((position + origin) % (1 << level) == 0 for level, origin in enumerate(geometry.origins))

    assert geometry.phase == next(position for position in range(geometry.period) if whole(position))
    assert whole(geometry.phase - 5 * geometry.period)


@given(GEOMETRIES)
def test_integrated_levels_start_where_the_finer_features_do_and_reach_their_end(geometry):
    lost = geometry.kernel - 1
    for level in range(1, geometry.levels):
        step = 1 << level
        features_start = geometry.origins[level] + 3 * lost // 2 * step
        finer_start = geometry.origins[level - 1] + 3 * lost // 2 * step // 2
        assert features_start + lost // 2 * step == finer_start
        assert 0 <= 2 * (geometry.features[level] - lost) - geometry.features[level - 1] <= 1


@given(GEOMETRIES)
def test_all_boxes_share_the_targets_centre(geometry):
    for level, (origin, size) in enumerate(zip(geometry.origins, geometry.inputs, strict=True)):
        centre = origin + (size << level) / 2
        assert abs(centre - geometry.patch / 2) < 1 << level


@given(GEOMETRIES, st.integers(1, 400))
def test_the_boxes_of_a_targets_first_voxels_are_the_first_parts_of_its_own(geometry, voxels):
    trimmed = geometry.trimmed(voxels)
    assert trimmed.patch == min(voxels, geometry.patch)
    assert trimmed.origins == geometry.origins
    assert all(own <= whole for own, whole in zip(trimmed.inputs, geometry.inputs, strict=True))


PADDED = st.builds(PaddedGeometry, patch=st.integers(1, 300), margin=st.integers(0, 200), resolutions=st.integers(1, 5))


@pytest.mark.parametrize("patch, margin, box", [(64, 32, 128), (72, 36, 144), (18, 11, 40), (4, 2, 8)])
def test_a_padded_box_is_twice_the_patch_and_a_whole_number_of_coarsest_voxels(patch, margin, box):
    geometry = PaddedGeometry.around(patch, 4)
    assert (geometry.margin, geometry.inputs, geometry.origins) == (margin, (box,), (-margin,))
    assert (geometry.levels, geometry.period, geometry.phase) == (1, 8, 0)


@given(st.integers(1, 300), st.integers(1, 5))
def test_the_margin_around_a_patch_is_half_of_it_and_little_more(patch, resolutions):
    geometry = PaddedGeometry.around(patch, resolutions)
    assert patch // 2 <= geometry.margin <= (patch + geometry.period) // 2
    assert geometry.inputs[0] % geometry.period in ({0} if patch % 2 == 0 else {0, geometry.period - 1})


@given(GEOMETRIES | PADDED, st.integers(1, 300))
def test_a_tile_of_any_size_has_the_origins_and_phase_of_the_patch(geometry, tile):
    other = geometry.resized(tile)
    assert other.patch == tile
    assert (other.origins, other.phase, other.period) == (geometry.origins, geometry.phase, geometry.period)


@pytest.mark.parametrize(
    "arguments, key, remedy",
    [((0, 5, 4), "patches.size", "1"), ((72, 4, 4), "network.kernel", "3 or 5"), ((72, 5, 0), "network.levels", "1")],
)
def test_sizes_that_cannot_be_are_refused_with_key_and_remedy(arguments, key, remedy):
    with pytest.raises(BadInput, match=key) as caught:
        FovealGeometry(*arguments)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, key",
    [((0, 4, 4), "patches.size"), ((64, -1, 4), "network.margin"), ((64, 32, 0), "network.levels")],
)
def test_padded_sizes_that_cannot_be_are_refused_with_their_key(arguments, key):
    with pytest.raises(BadInput, match=rf"{key} = \S+: .*(smallest|at least)"):
        PaddedGeometry(*arguments)


@given(st.tuples(*[st.integers(-1000, 1000)] * 3), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 7))
def test_nearest_lattice_point_is_on_the_lattice_and_at_most_half_a_step_away(origin_3, step, phase):
    for found, wanted in zip(Lattice(step, phase).nearest(origin_3), origin_3, strict=True):
        assert (found - phase) % step == 0
        assert 2 * abs(found - wanted) <= step


@pytest.mark.parametrize("step, phase", [(1, 0), (2, 0), (4, 2), (8, 6)])
def test_target_lattice_agrees_with_the_phase(step, phase):
    assert target_lattice(FovealGeometry(72, 3, 4), step) == Lattice(step, phase)


def test_a_lattice_without_step_is_refused():
    with pytest.raises(BadInput, match=r"patches\.lattice"):
        target_lattice(FovealGeometry(72, 3, 4), 0)
