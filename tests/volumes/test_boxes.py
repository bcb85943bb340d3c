"""Bounding boxes, and where a box meets a volume."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hpcseg.volumes import scratch
from hpcseg.volumes.boxes import bounding_box, intersection


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), voxels=st.integers(0, 4), seed=st.integers(0, 99))
def test_a_bounding_box_is_scipys(shape: tuple[int, int, int], voxels: int, seed: int) -> None:
    mask = np.zeros(shape, bool)
    mask.ravel()[np.random.default_rng(seed).integers(mask.size, size=voxels)] = True
    expected = ndimage.find_objects(mask.astype(int)) or [(slice(0, 0),) * 3]
    assert bounding_box(shape, lambda planes: mask[planes]) == expected[0]


def test_a_bounding_box_of_several_parts() -> None:
    mask = np.zeros((5, 600, 1000), np.uint8)
    mask[1, 2, 3], mask[3, 599, 2], mask[4, 7, 7] = 4, 4, 1
    assert len(list(scratch.slabs(mask.shape))) > 1
    box = bounding_box(mask.shape, lambda planes: mask[planes] == 4)
    assert box == (slice(1, 4), slice(2, 600), slice(2, 4))


AXIS = st.tuples(st.integers(-20, 20), st.integers(1, 9), st.integers(1, 9))


@given(st.tuples(AXIS, AXIS, AXIS))
def test_an_intersection_is_what_box_and_volume_share(axes: tuple[tuple[int, int, int], ...]) -> None:
    for (start, size, length), volume, box in zip(axes, *intersection(*zip(*axes, strict=True)), strict=True):
        shared = [position for position in range(start, start + size) if 0 <= position < length]
        assert list(range(length))[volume] == shared
        assert list(range(start, start + size))[box] == shared
