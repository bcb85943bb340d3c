"""What is kept of a mask, by masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hpcseg.inference.components import keep_largest


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
