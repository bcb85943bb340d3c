"""Voxels as they are stored, and the intensities they stand for. Reading them from files: test_scans."""

from __future__ import annotations

import numpy as np
import pytest

from hpcseg.volumes.voxels import Intensities

STORED = np.arange(-30, 30, dtype=np.int16).reshape(3, 4, 5)


@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.0), (0.5, -1024.0), (-2.0, 3.0)])
def test_intensities_are_slope_times_stored_plus_intercept(slope: float, inter: float) -> None:
    volume = Intensities(STORED, slope, inter)
    assert volume.shape == STORED.shape
    assert volume[1:].dtype == np.float32
    assert np.array_equal(volume[1:], STORED[1:] * slope + inter)
    assert np.array_equal(volume[1:2, ::-1, 3:], (STORED * slope + inter)[1:2, ::-1, 3:])
    assert volume.extent == (volume[:].min(), volume[:].max())


def test_a_crop_shares_its_memory() -> None:
    volume = Intensities(STORED, 2.0, 1.0)
    part = volume.crop((slice(1, 3), slice(0, 2), slice(2, 4)))
    assert np.shares_memory(part.stored_zyx, STORED)
    assert np.array_equal(part[:], volume[1:3, 0:2, 2:4])


def test_float32_is_not_copied() -> None:
    stored = STORED.astype(np.float32)
    assert np.shares_memory(Intensities(stored)[:], stored)


def test_the_extent_tells_of_voxels_that_are_no_number() -> None:
    stored = STORED.astype(np.float32)
    stored[1, 2, 3] = np.nan
    assert np.isnan(Intensities(stored).extent).all()
