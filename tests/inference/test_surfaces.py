"""Surfaces and their distances against the slowest way of finding them: comparing all pairs of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.inference import surfaces
from hpcseg.inference.surfaces import Mask, common_box, nearest, surface, surface_distances, voxel_mm3

SPACING = (2.0, 0.7265625, 0.5)


def drawn(seed: int, share: float, shape: tuple[int, int, int] = (6, 7, 8)) -> Mask:
    """A random mask."""
    return np.random.default_rng(seed).random(shape) < share


def surface_by_voxel(mask: Mask) -> Mask:
    """A voxel is of the surface if it has fewer than six neighbours in the mask."""
    inside = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    found = np.zeros_like(mask)
    for z, y, x in inside:
        neighbours = {(z + d, y, x) for d in (-1, 1)} | {(z, y + d, x) for d in (-1, 1)}
        found[z, y, x] = not neighbours | {(z, y, x + d) for d in (-1, 1)} <= inside
    return found


def nearest_by_pair(one: Mask, other: Mask) -> list[float]:
    """The smallest of the distances to each voxel of the other."""
    places = [np.argwhere(mask) * SPACING for mask in (one, other)]
    return [min(float(np.linalg.norm(here - there)) for there in places[1]) for here in places[0]]


seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.05, 0.5, 0.9, 1.0])


@settings(max_examples=40)
@given(seeds, shares)
def test_a_surface_is_what_has_a_neighbour_outside(seed: int, share: float) -> None:
    mask = drawn(seed, share)
    before = mask.copy()
    assert np.array_equal(surface(mask), surface_by_voxel(mask))
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("dense", [0.0, 1.0])
@settings(max_examples=25)
@given(seeds, st.sampled_from([0.05, 0.4]))
def test_both_ways_of_finding_the_nearest_voxel_are_exact(dense: float, seed: int, share: float) -> None:
    one, other = drawn(seed, share), drawn(seed + 1, share)
    one[3, 3, 3] = other[2, 5, 1] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surfaces, "_DENSE", dense)
        assert nearest(one, other, SPACING) == pytest.approx(nearest_by_pair(one, other), rel=1e-6)


def test_threads_change_nothing() -> None:
    one, other = drawn(1, 0.02, (30, 30, 30)), drawn(2, 0.02, (30, 30, 30))
    assert np.array_equal(nearest(one, other, SPACING, 1), nearest(one, other, SPACING, 2))


def test_distances_are_summed_up_over_both_surfaces() -> None:
    one, other = np.zeros((1, 1, 40), bool), np.zeros((1, 1, 40), bool)
    one[..., 0], other[..., 0] = True, True
    other[..., 20] = True  # 10 mm from the only voxel of the other mask
    found = surface_distances(one, other, SPACING)
    assert found is not None
    assert (found.of_mask_S.tolist(), found.of_reference_S.tolist()) == ([0], [0, 10])
    assert (found.greatest, found.mean) == (10, pytest.approx(10 / 3))
    assert found.percentile(95) == pytest.approx(9.5)  # of two values, linearly between them
    assert found.percentile(100) == found.greatest
    assert (found.share_within(9.9), found.share_within(10)) == (pytest.approx(2 / 3), 1)


def test_a_distance_that_misses_the_tolerance_by_rounding_is_within() -> None:
    one, other = np.zeros((1, 1, 9), bool), np.zeros((1, 1, 9), bool)
    one[..., 0], other[..., 3] = True, True
    found = surface_distances(one, other, (1.0, 1.0, 0.1))
    assert found is not None and found.greatest > 0.3 and found.share_within(0.3) == 1


def test_no_surface_has_no_distances() -> None:
    full, empty = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    pairs = itertools.product((full, empty), repeat=2)
    assert [surface_distances(one, other, SPACING) is None for one, other in pairs] == [
        False,
        True,
        True,
        True,
    ]


@settings(max_examples=40)
@given(seeds, st.sampled_from([0.0, 0.01, 0.05]))
def test_a_common_box_is_as_small_as_it_can_be(seed: int, share: float) -> None:
    one, other = drawn(seed, share), drawn(seed + 1, share)
    both = one | other
    box = common_box(one, other)
    assert np.count_nonzero(both[box]) == np.count_nonzero(both)
    ends = [np.moveaxis(both[box], axis, 0)[[0, -1]] for axis in range(3) if both.any()]
    assert all(end.any() for pair in ends for end in pair)
    assert both.any() or both[box].size == 0
    assert box == common_box(one.astype(np.uint8) * np.uint8(4), other.astype(np.uint8))


def test_distances_of_sheared_axes_are_those_of_the_affine() -> None:
    steps_zyx = np.array([[0, 1.5, 2.0], [0, 0.5, 0], [0.5, 0, 0]])  # rows: x, y, z of a step along z, y, x
    first, second = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    first[2, 4, 4] = second[5, 1, 4] = True
    found = surface_distances(first, second, steps_zyx)
    assert found is not None
    assert found.greatest == pytest.approx(np.hypot(3 * 1.5 - 3 * 0.5, 3 * 2.0))
    assert voxel_mm3(steps_zyx) == pytest.approx(0.5) and voxel_mm3((2.0, 0.5, 0.5)) == 0.5
    dense = np.random.default_rng(0).random((6, 6, 6)) < 0.5  # where a transform would be faster
    straight, as_steps = (
        surface_distances(dense, ~dense, step) for step in ((2.0, 0.5, 0.7), np.diag([2.0, 0.5, 0.7]))
    )
    assert straight is not None and as_steps is not None
    np.testing.assert_allclose(as_steps.of_mask_S, straight.of_mask_S, rtol=1e-6)
