"""The deformation's spline against scipy's, and on all levels the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from hpcseg.patches.elastic import ControlGrid, Taps, displacements, positions
from hpcseg.patches.geometry import FovealGeometry, PaddedGeometry

GEOMETRY = FovealGeometry(24, 3, 3)
geometries = st.one_of(
    st.builds(FovealGeometry, st.integers(4, 90), st.sampled_from([3, 5]), st.integers(1, 5)),
    st.builds(PaddedGeometry.around, st.integers(4, 90), st.integers(1, 4)),
)


def taps(grid, positions_D):
    return Taps(*map(torch.from_numpy, grid.taps(positions_D)))


def level_positions(geometry, level):
    return positions(geometry, level, geometry.origins[level], geometry.inputs[level])


@example(geometry=FovealGeometry(4, 3, 1), spacing=1.5000000000000002)  # voxels on control points, but for rounding
@example(geometry=FovealGeometry(4, 3, 1), spacing=1.4999999999999998)
@given(geometry=geometries, spacing=st.floats(1, 64))
def test_the_grid_surrounds_every_voxel_of_every_level_and_is_no_larger_than_it_has_to_be(geometry, spacing):
    grid = ControlGrid.over(geometry, spacing)
    every = [level_positions(geometry, level) for level in range(geometry.levels)]
    first = np.concatenate([grid.taps(places)[0] for places in every])
    assert first.min() >= 0 and (first + 3).max() < grid.count
    assert min(first.min(), grid.count - 4 - first.max()) <= 1


@given(places=st.lists(st.floats(-29.99, 29.99), min_size=1, max_size=5))
def test_weights_are_those_of_the_cubic_b_spline(places):
    first, weights = ControlGrid(10.0, 9).taps(np.array(places))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    bump = BSpline.basis_element(np.arange(-2, 3) * 10.0, extrapolate=False)
    for number, place in enumerate(places):
        points = (first[number] + np.arange(4) - 4) * 10.0
        np.testing.assert_allclose(weights[:, number], np.nan_to_num(bump(place - points)), atol=1e-6)


def test_a_cube_is_displaced_by_the_product_of_the_splines_along_its_axes():
    grid = ControlGrid.over(GEOMETRY, 13.0)
    controls = torch.randn(2, 3, *(grid.count,) * 3, generator=torch.Generator().manual_seed(0))
    for level in range(3):
        places = level_positions(GEOMETRY, level)
        first, weights = grid.taps(places)
        dense = np.zeros((len(places), grid.count))
        for tap in range(4):
            dense[np.arange(len(places)), first + tap] = weights[tap]
        expected = np.einsum("zi,yj,xk,bcijk->bczyx", dense, dense, dense, controls.double().numpy())
        found = displacements(controls, taps(grid, places))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        assert (found.abs().amax(dim=(2, 3, 4)) <= controls.abs().amax(dim=(2, 3, 4)) * (1 + 1e-6)).all()


def test_control_vectors_on_a_ramp_give_the_ramp_at_the_place_of_each_voxel():
    grid = ControlGrid.over(GEOMETRY, 16.0)
    along = (torch.arange(grid.count) - (grid.count - 1) / 2) * 16.0
    z, y, x = torch.meshgrid(along, along, along, indexing="ij")
    controls = torch.stack([0.25 * z, 3 - y, 0.5 * x + 0.125 * z])[None]
    for level in range(3):
        places = level_positions(GEOMETRY, level)
        z, y, x = np.meshgrid(places, places, places, indexing="ij")
        found = displacements(controls, taps(grid, places))[0]
        for moved, expected in zip(found, (0.25 * z, 3 - y, 0.5 * x + 0.125 * z), strict=True):
            np.testing.assert_allclose(moved.numpy(), expected, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_largest_displacements_that_are_allowed_fold_nothing(seed):
    spacing = 10.0
    grid = ControlGrid(spacing, 8)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (3, 8, 8, 8))
    controls = torch.from_numpy(0.4 * spacing * signs)[None]
    places = np.arange(-20, 20, 0.5)
    field = displacements(controls, taps(grid, places))[0].double().numpy()
    slopes = np.stack([np.gradient(field, 0.5, axis=axis) for axis in (1, 2, 3)])
    jacobian = np.moveaxis(slopes, (0, 1), (-1, -2)) + np.eye(3)
    assert np.linalg.det(jacobian).min() > 0


def test_a_patch_does_not_depend_on_the_others_or_on_the_threads():
    grid = ControlGrid.over(FovealGeometry(72, 5, 4), 32.0)
    controls = torch.randn(3, 3, *(grid.count,) * 3, generator=torch.Generator().manual_seed(0))
    own = taps(grid, level_positions(FovealGeometry(72, 5, 4), 0))
    together, threads = displacements(controls, own), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(displacements(controls[1:2], own), together[1:2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("spacing", [8.0, 24.0])
def test_control_points_stand_around_the_targets_centre(spacing):
    grid = ControlGrid.over(GEOMETRY, spacing)
    first, weights = grid.taps(np.array([0.0]))
    mean = ((first + np.arange(4)) * weights[:, 0]).sum()
    assert mean == pytest.approx((grid.count - 1) / 2)
