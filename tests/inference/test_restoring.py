"""Probabilities come back on the scan's grid, slab by slab, and become classes; islands go."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.inference.restoring import keep_largest, most_probable, restored
from hpcseg.volumes.boxes import Box
from hpcseg.volumes.resample import linear_slabs

SCAN = (30, 11, 13)
CROPS = [np.s_[4:27, 1:9, 0:13], np.s_[0:30, 0:11, 0:13], np.s_[29:30, 10:11, 2:5]]


def test_most_probable_class_by_hand() -> None:
    one = np.array([0.5, 0.51], np.float32).reshape(1, 1, 1, 2)
    assert most_probable(one).ravel().tolist() == [0, 1]
    two = np.array([[0.4, 0.3, 0.2, 0.4], [0.5, 0.2, 0.6, 0.4]], np.float32).reshape(2, 1, 1, 4)
    assert most_probable(two).ravel().tolist() == [2, 0, 2, 1]


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.sampled_from(CROPS),
    st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20)),
    st.integers(1, 25),
)
def test_restoring_slab_by_slab_is_restoring_at_once(
    classes: int, crop: Box, shape: tuple[int, int, int], thickness: int
) -> None:
    values = np.random.default_rng(0).random((classes, *shape), np.float32)
    slabs = (values[:, first : first + thickness] for first in range(0, shape[0], thickness))
    found = list(restored(slabs, values.shape, crop, SCAN))
    assert [plane for planes, _ in found for plane in range(planes.start, planes.stop)] == list(range(SCAN[0]))
    expected = np.zeros((classes, *SCAN), np.float32)
    inner = [axis.stop - axis.start for axis in crop]
    for planes, whole in linear_slabs(iter([values]), values.shape, inner):
        expected[:, *crop][:, planes] = whole
    np.testing.assert_array_equal(np.concatenate([slab for _, slab in found], axis=1), expected)


@pytest.mark.parametrize("finer", [0.5, 1.0, 2.0])
def test_no_plane_is_made_before_it_is_needed(finer: float) -> None:
    planes, made = 400, [0]

    def predicted() -> Iterator[np.ndarray]:
        for first in range(0, planes, 10):
            made[0] = first + 10
            yield np.zeros((2, 10, 3, 3), np.float32)

    scan = (round(planes * finer), 3, 3)
    crop = (slice(0, scan[0]), slice(0, scan[1]), slice(0, scan[2]))
    for done, _ in restored(predicted(), (2, planes, 3, 3), crop, scan):
        assert made[0] <= done.stop / finer + 20


def test_only_the_largest_component_of_each_class_is_left() -> None:
    mask = np.zeros((6, 20, 20), np.uint8)
    mask[1:4, 1:5, 1:5] = 1
    mask[1:4, 10:12, 10:12] = 1
    mask[1:3, 1:3, 15:18] = 2
    mask[5, 19, 19] = 2
    expected = mask.copy()
    expected[1:4, 10:12, 10:12] = 0
    expected[5, 19, 19] = 0
    keep_largest(mask, 2)
    np.testing.assert_array_equal(mask, expected)


def test_voxels_that_share_a_corner_are_connected() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]] = 1
    keep_largest(mask, 1)
    assert mask.sum() == 4


def test_another_class_does_not_connect() -> None:
    mask = np.array([[[1, 1, 2, 1, 0, 0]]], np.uint8)
    keep_largest(mask, 2)
    assert mask.ravel().tolist() == [1, 1, 2, 0, 0, 0]


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_stay(value: int) -> None:
    mask = np.full((3, 4, 5), value, np.uint8)
    keep_largest(mask, 2)
    assert (mask == value).all()
