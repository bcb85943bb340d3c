"""Dice against counts made by hand, and its defined values on empty masks."""

from __future__ import annotations

import numpy as np
import pytest

from hpcseg.inference.metrics import dice


def test_dice_of_known_overlap() -> None:
    mask, reference = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    mask[0, :2] = 1  # 8 voxels
    reference[0, 1:] = 1  # 12 voxels, 4 of them shared
    assert dice(mask, reference) == pytest.approx(2 * 4 / 20)


def test_dice_looks_at_one_class() -> None:
    mask, reference = np.array([1, 2, 2, 0], np.uint8), np.array([1, 1, 2, 2], np.uint8)
    assert dice(mask, reference, 1) == pytest.approx(2 / 3)
    assert dice(mask, reference, 2) == pytest.approx(2 / 4)


def test_empty_masks_have_defined_values() -> None:
    empty, full = np.zeros(5, np.uint8), np.ones(5, np.uint8)
    assert dice(empty, empty) is None
    assert dice(full, empty) == 0
    assert dice(empty, full) == 0
    assert dice(full, full) == 1
