"""All levels show the same place, and every way through the stored pyramid gives the same values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.reading import read_box, read_sample, stored_level

SHAPE = (37, 50, 45)  # odd on purpose: the last voxels of the coarser levels are partly outside
CLIP = (-200.0, 400.0)


def _ramp(shape_zyx):
    """Intensity = 2 z + 3 y + 1 x: a mean over any box is the value at its centre."""
    z, y, x = np.meshgrid(*(np.arange(size) for size in shape_zyx), indexing="ij")
    return (2 * z + 3 * y + x).astype(np.float32)


@pytest.fixture(scope="module")
def ramp(packed):
    return packed({"ramp": (_ramp((96, 104, 100)) + 1, None)}, clip=None).case("ramp")


@pytest.fixture(scope="module")
def noise_volume():
    return np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def noise(packed, noise_volume):
    return packed({"noise": (noise_volume, None)}).case("noise")


def _by_definition(volume, level, corner_3, size, padding, clip):
    """Level-l voxels as means over 2^l cubes of an endless volume, float64."""
    factor = 1 << level
    edge = size * factor
    index = np.meshgrid(*(np.arange(corner, corner + edge) for corner in corner_3), indexing="ij")
    inside = np.all([(i >= 0) & (i < n) for i, n in zip(index, volume.shape, strict=True)], axis=0)
    values = np.full((edge,) * 3, padding, np.float64)
    values[inside] = volume[tuple(i[inside] for i in index)]
    if level and clip:
        values = values.clip(*clip)
    return values.reshape(size, factor, size, factor, size, factor).mean(axis=(1, 3, 5))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shift", [(0, 0, 0), (4, 4, 4), (2, 0, 6), (1, 3, 5)])
def test_on_a_ramp_every_level_shows_the_place_that_geometry_says(ramp, kernel, shift):
    geometry = FovealGeometry(8, kernel, 3)
    origin_3 = tuple(40 + geometry.phase + s for s in shift)
    for level, box in enumerate(read_sample(ramp, geometry, origin_3, range(3), None)):
        centres = [
            o + geometry.origins[level] + (np.arange(geometry.inputs[level]) + 0.5) * 2**level - 0.5 for o in origin_3
        ]
        z, y, x = np.meshgrid(*centres, indexing="ij")
        assert box.dtype == np.float32
        assert np.abs(box - (2 * z + 3 * y + x + 1)).max() <= ramp.slope * level / 2 + 1e-4


@settings(max_examples=80, deadline=None)
@given(
    level=st.integers(0, 4),
    corner_3=st.tuples(*[st.integers(-40, 60)] * 3),
    unit=st.sampled_from([1, 2, 4, 8]),
    size=st.integers(1, 6),
)
def test_any_box_equals_its_definition_to_coding_rounding(noise, noise_volume, level, corner_3, unit, size):
    corner_3 = tuple(corner // unit * unit for corner in corner_3)
    found = read_box(noise, level, corner_3, size, CLIP)
    expected = _by_definition(noise_volume, level, corner_3, size, -1000.0, CLIP)
    assert found.shape == (size,) * 3
    steps = stored_level(level, corner_3)  # each stored level is rounded once
    assert np.abs(found - expected).max() <= noise.slope * (steps + 1) / 2 + 1e-3


def test_the_direct_and_the_indirect_way_agree(noise):
    for level in (1, 2, 3):
        direct = read_box(noise, level, (8, 0, -8), 5, CLIP)
        for stored in range(level):
            edge = 5 << (level - stored)
            start_3 = (8 >> stored, 0, -8 >> stored)
            values = noise.decode(noise.read(stored, start_3, (edge,) * 3))
            factor = edge // 5
            if stored == 0:
                values = values.clip(*CLIP)
            indirect = values.reshape(5, factor, 5, factor, 5, factor).mean(axis=(1, 3, 5))
            assert np.abs(direct - indirect).max() <= noise.slope * level


@pytest.mark.parametrize(
    "level, corner_3, stored",
    [
        (3, (8, -16, 0), 3),
        (3, (8, 4, 0), 2),
        (3, (8, 2, 0), 1),
        (2, (8, 8, -7), 0),
        (4, (16, 16, 16), 3),
        (0, (8,) * 3, 0),
    ],
)
def test_the_coarsest_level_with_a_whole_corner_is_read(level, corner_3, stored):
    assert stored_level(level, corner_3) == stored


@pytest.mark.parametrize("level, value", [(0, -1000), (1, -200), (3, -200)])
@pytest.mark.parametrize("corner", [-200, -201])
def test_far_outside_is_padding_clipped_from_level_one_on(noise, level, value, corner):
    box = read_box(noise, level, (corner, 0, 0), 3, CLIP)
    assert np.abs(box - value).max() <= noise.slope


def test_without_a_clip_nothing_is_clipped(packed, noise_volume):
    case = packed({"noise": (noise_volume, None)}, clip=None).case("noise")
    for corner_3 in ((0, 4, -4), (1, 4, -3)):
        expected = _by_definition(noise_volume, 2, corner_3, 6, -1000.0, None)
        assert np.abs(read_box(case, 2, corner_3, 6, None) - expected).max() <= 2 * case.slope


def test_levels_come_in_the_order_asked_for(noise):
    geometry = FovealGeometry(6, 3, 4)
    both = read_sample(noise, geometry, (14, 14, 14), (2, 0), CLIP)
    assert [box.shape[0] for box in both] == [geometry.inputs[2], geometry.inputs[0]]
