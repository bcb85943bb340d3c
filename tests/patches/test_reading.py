"""All levels show the same place, and every way through the stored pyramid gives the same values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.patches.geometry import FovealGeometry, target_lattice
from hpcseg.patches.reading import clip_codes, read_sample, reading_threads, stored_level
from tests.patches.boxes import read_box

SHAPE = (37, 50, 45)  # odd on purpose: the last voxels of the coarser levels are partly outside
CLIP = (-200.0, 400.0)


@pytest.fixture(scope="module")
def ramps(packed):
    """One volume per axis, whose intensity is 8 times the position along it: a mean is the value at the centre."""
    positions = np.meshgrid(*(np.arange(120),) * 3, indexing="ij")
    store = packed({f"axis{axis}": (8.0 * p + 1, None) for axis, p in enumerate(positions)}, clip=None)
    return [store.case(f"axis{axis}") for axis in range(3)]


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


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("lattice", [1, 2, 4, 8])
@pytest.mark.parametrize("kernel, levels", [(3, 4), (5, 3)])
def test_on_a_ramp_every_level_shows_the_place_that_geometry_says(ramps, axis, lattice, kernel, levels):
    geometry, case = FovealGeometry(8, kernel, levels), ramps[axis]
    for near in ((50, 51, 54), (57, 53, 52)):
        origin_3 = target_lattice(geometry, lattice).nearest(near)
        for level, box in enumerate(read_sample(case, geometry, origin_3, range(levels), None)):
            first = origin_3[axis] + geometry.origins[level]
            centres = first + (np.arange(geometry.inputs[level]) + 0.5) * 2**level - 0.5
            along = np.moveaxis(case.coding.decode(box), axis, -1)
            assert np.abs(along - (8 * centres + 1)).max() <= case.coding.slope


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
    assert found.shape == (size,) * 3 and found.dtype == np.int16
    # Rounded once in the store, and once more where means are taken here.
    roundings = 1 if stored_level(level, corner_3) in (0, level) else 2
    assert np.abs(noise.coding.decode(found) - expected).max() <= noise.coding.slope * roundings / 2 + 1e-3


@settings(max_examples=40, deadline=None)
@given(
    level=st.integers(0, 4), corner_3=st.tuples(*[st.integers(-60, 80)] * 3), size=st.integers(1, 5), fill=st.booleans()
)
def test_a_box_is_written_to_any_view(noise, level, corner_3, size, fill):
    room = np.full((size, 2, size, size + 3), fill, np.int16)
    out = room[:, 1, :, 2:-1]
    assert read_box(noise, level, corner_3, size, CLIP, out) is out
    np.testing.assert_array_equal(out, read_box(noise, level, corner_3, size, CLIP))
    assert (room[:, 0] == fill).all() and (room[:, 1, :, :2] == fill).all()


def test_the_direct_and_the_indirect_way_agree(noise):
    for level in (1, 2, 3):
        direct = read_box(noise, level, (8, 0, -8), 5, CLIP)
        for stored in range(level):
            edge = 5 << (level - stored)
            start_3 = (8 >> stored, 0, -8 >> stored)
            values = noise.coding.decode(noise.read(stored, start_3, (edge,) * 3))
            factor = edge // 5
            if stored == 0:
                values = values.clip(*CLIP)
            indirect = values.reshape(5, factor, 5, factor, 5, factor).mean(axis=(1, 3, 5))
            assert np.abs(noise.coding.decode(direct) - indirect).max() <= noise.coding.slope


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
    box = noise.coding.decode(read_box(noise, level, (corner, 0, 0), 3, CLIP))
    assert np.abs(box - value).max() <= noise.coding.slope


def test_without_a_clip_nothing_is_clipped(packed, noise_volume):
    case = packed({"noise": (noise_volume, None)}, clip=None).case("noise")
    for corner_3 in ((0, 4, -4), (1, 4, -3)):
        expected = _by_definition(noise_volume, 2, corner_3, 6, -1000.0, None)
        found = case.coding.decode(read_box(case, 2, corner_3, 6, None))
        assert np.abs(found - expected).max() <= case.coding.slope


def test_levels_come_in_the_order_asked_for(noise):
    geometry = FovealGeometry(6, 3, 4)
    both = read_sample(noise, geometry, (14, 14, 14), (2, 0), CLIP)
    assert [box.shape[0] for box in both] == [geometry.inputs[2], geometry.inputs[0]]


def test_the_clip_in_codes_is_what_the_store_would_write(noise):
    assert clip_codes(noise.coding, CLIP) == tuple(noise.coding.encode(np.array(CLIP, np.float32)).tolist())
    assert clip_codes(noise.coding, (-1e9, 1e9)) == (-32768, 32767)
    assert clip_codes(noise.coding, None) is None


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from([3, 5]),
    origin_3=st.tuples(*[st.integers(-20, 60)] * 3),
    unit=st.sampled_from([1, 2, 4, 8]),
    levels=st.permutations(range(4)).flatmap(lambda order: st.integers(1, 4).map(lambda count: order[:count])),
    given_room=st.booleans(),
)
def test_boxes_of_a_sample_are_those_read_one_by_one(noise, kernel, origin_3, unit, levels, given_room):
    geometry = FovealGeometry(7, kernel, 4)
    z, y, x = (position // unit * unit + geometry.phase for position in origin_3)
    room = [np.full((geometry.inputs[level],) * 3, 77, np.int16) for level in levels] if given_room else None
    found = read_sample(noise, geometry, (z, y, x), levels, CLIP, room)
    for index, (level, box) in enumerate(zip(levels, found, strict=True)):
        corner_3 = tuple(position + geometry.origins[level] for position in (z, y, x))
        np.testing.assert_array_equal(box, read_box(noise, level, corner_3, geometry.inputs[level], CLIP))
        assert room is None or box is room[index]


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (5, 4), (9, 8), (64, 8)])
def test_a_gpu_is_read_for_by_the_cores_that_there_are(monkeypatch, cores, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert reading_threads(torch.device("cuda")) == threads
    assert reading_threads(torch.device("cpu")) == 2
