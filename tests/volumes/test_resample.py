"""Resampling by matrices against scipy's zoom."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hpcseg.volumes.resample import (
    cubic_matrix,
    linear_matrix,
    linear_slabs,
    resample_cubic,
    resample_labels,
    target_shape,
)

SHAPES = st.tuples(*[st.integers(1, 24)] * 3)
LONG_SHAPES = st.permutations([st.integers(60, 150), st.integers(1, 8), st.integers(1, 8)]).flatmap(
    lambda axes: st.tuples(*axes)
)


def scipy_zoom(volume: np.ndarray, shape: tuple[int, ...], order: Any) -> np.ndarray:
    factors = [wanted / n for wanted, n in zip(shape, volume.shape, strict=True)]
    return np.asarray(ndimage.zoom(volume.astype(np.float64), factors, order=order, mode="mirror"))


def resample_linear(volume: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    slabs = linear_slabs(iter([volume[None]]), (1, *volume.shape), wanted)
    return np.concatenate([slab.copy() for _, (slab,) in slabs])


@given(shape=SHAPES, wanted=SHAPES, seed=st.integers(0, 9))
@settings(max_examples=100)
def test_cubic_is_scipys_zoom(shape: tuple[int, int, int], wanted: tuple[int, int, int], seed: int) -> None:
    volume = np.random.default_rng(seed).random(shape, dtype=np.float32)
    ours = resample_cubic(volume, wanted)
    assert ours.dtype == np.float32
    assert np.abs(ours - scipy_zoom(volume, wanted, 3)).max() < 1e-3


@given(shape=LONG_SHAPES, wanted=LONG_SHAPES, seed=st.integers(0, 9))
@settings(max_examples=60)
def test_axes_of_many_slabs_and_bands_are_scipys_too(
    shape: tuple[int, int, int], wanted: tuple[int, int, int], seed: int
) -> None:
    volume = np.random.default_rng(seed).normal(0, 300, shape).astype(np.float32)
    assert np.abs(resample_cubic(volume, wanted) - scipy_zoom(volume, wanted, 3)).max() < 0.01
    assert np.abs(resample_linear(volume, wanted) - scipy_zoom(volume, wanted, 1)).max() < 1e-3


@pytest.mark.parametrize("wanted", [(90, 60, 50), (31, 100, 90), (70, 35, 130), (20, 20, 20), (70, 80, 45)])
def test_a_volume_is_resampled_alike_in_every_layout_and_type(wanted: tuple[int, int, int]) -> None:
    stored = np.random.default_rng(0).integers(-1000, 3000, (70, 80, 90)).astype(np.int16)
    expected = resample_cubic(stored.astype(np.float32), wanted)
    assert np.abs(expected - scipy_zoom(stored, wanted, 3)).max() < 0.01
    for axes in itertools.permutations(range(3)):
        layout = np.ascontiguousarray(stored[::-1, :, ::-1].transpose(axes))
        view = layout.transpose(tuple(np.argsort(axes)))[::-1, :, ::-1]
        assert np.array_equal(resample_cubic(view, wanted), expected)


def test_a_huge_range_keeps_its_relative_precision() -> None:
    volume = np.random.default_rng(0).lognormal(8, 2, (40, 50, 45)).astype(np.float32)
    volume *= np.float32(1.7e6) / volume.max()
    assert np.abs(resample_cubic(volume, (60, 40, 70)) - scipy_zoom(volume, (60, 40, 70), 3)).max() < 1e-6 * 1.7e6


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 9), (64, 37), (31, 100), (200, 500)])
def test_cubic_matrix_is_scipys_default_zoom_of_the_identity(n_in: int, n_out: int) -> None:
    expected = ndimage.zoom(np.eye(n_in), (n_out / n_in, 1), order=3)
    rows = np.abs(expected).sum(axis=1) > 0  # the default mode may lose the last row to rounding
    assert rows[:-1].all()
    assert np.abs(cubic_matrix(n_in, n_out) - expected)[rows].max() < 1e-6


@given(n_in=st.integers(1, 300), n_out=st.integers(1, 300))
@settings(max_examples=60)
def test_matrices_keep_constants_so_no_row_is_lost(n_in: int, n_out: int) -> None:
    for matrix in (cubic_matrix(n_in, n_out), linear_matrix(n_in, n_out)):
        assert matrix.shape == (n_out, n_in)
        assert np.abs(matrix.sum(axis=1) - 1).max() < 1e-5


def test_matrices_are_shared_and_read_only() -> None:
    assert cubic_matrix(7, 9) is cubic_matrix(7, 9)
    with pytest.raises(ValueError, match="read-only"):
        cubic_matrix(7, 9)[0, 0] = 1


@given(shape=SHAPES, wanted=SHAPES)
@settings(max_examples=60)
def test_linear_is_scipys_zoom(shape: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(1).random(shape, dtype=np.float32)
    assert np.abs(resample_linear(volume, wanted) - scipy_zoom(volume, wanted, 1)).max() < 1e-5


def test_a_ramp_stays_a_ramp() -> None:
    ramp = np.broadcast_to(np.linspace(-100, 100, 21, dtype=np.float32), (4, 5, 21))
    expected = np.linspace(-100, 100, 57, dtype=np.float32)
    assert np.abs(resample_linear(ramp, (7, 3, 57)) - expected).max() < 1e-3


def test_the_same_shape_gives_the_same_values_in_a_new_array() -> None:
    volume = np.random.default_rng(0).random((4, 5, 6), dtype=np.float32)
    for resampled in (resample_cubic(volume, volume.shape), resample_linear(volume, volume.shape)):
        assert np.array_equal(resampled, volume)
        assert not np.shares_memory(resampled, volume)


@given(shape=SHAPES, n_classes=st.integers(2, 5), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_labels_keep_their_values_on_their_own_grid(shape: tuple[int, int, int], n_classes: int, seed: int) -> None:
    label = np.random.default_rng(seed).integers(0, n_classes, shape, dtype=np.uint8)
    assert np.array_equal(resample_labels(label, shape, n_classes), label)


@given(shape=SHAPES, wanted=SHAPES, n_classes=st.integers(2, 4), seed=st.integers(0, 9))
@settings(max_examples=80)
def test_labels_are_the_argmax_of_the_interpolated_one_hot(
    shape: tuple[int, int, int], wanted: tuple[int, int, int], n_classes: int, seed: int
) -> None:
    label = np.random.default_rng(seed).integers(0, n_classes, shape, dtype=np.uint8)
    shares = np.stack([scipy_zoom(label == index, wanted, 1) for index in range(n_classes)])
    ours = resample_labels(label, wanted, n_classes)
    second, best = np.sort(shares, axis=0)[-2:]
    clear = best - second > 1e-5
    assert np.array_equal(ours[clear], shares.argmax(axis=0)[clear])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_ties_go_to_the_lower_class(n_classes: int) -> None:
    label = np.zeros((1, 1, 2), np.uint8)
    label[..., 1] = n_classes - 1
    assert resample_labels(label, (1, 1, 3), n_classes).ravel().tolist() == [0, 0, n_classes - 1]
    assert resample_labels(label[..., ::-1], (1, 1, 3), n_classes).ravel().tolist() == [n_classes - 1, 0, 0]


@given(shape=SHAPES, wanted=SHAPES, n_classes=st.integers(2, 5), seed=st.integers(0, 9))
@settings(max_examples=80)
def test_labels_are_those_of_exact_arithmetic(
    shape: tuple[int, int, int], wanted: tuple[int, int, int], n_classes: int, seed: int
) -> None:
    label = np.random.default_rng(seed).integers(0, n_classes, shape, dtype=np.uint8)
    shares = np.stack([label == index for index in range(n_classes)]).astype(np.int64)
    for axis, n_out in enumerate(wanted):  # in units of 1 / ((z − 1) (y − 1) (x − 1)) of the wanted shape
        n_in, steps = shape[axis], max(n_out - 1, 1)
        left, rest = np.divmod(np.arange(n_out) * (n_in - 1), steps)
        weight = rest.reshape([-1 if other == axis else 1 for other in range(3)])
        right = np.minimum(left + 1, n_in - 1)
        shares = np.take(shares, left, axis + 1) * (steps - weight) + np.take(shares, right, axis + 1) * weight
    expected = label if shape == wanted else shares.argmax(axis=0)
    assert np.array_equal(resample_labels(label, wanted, n_classes), expected)


def test_ties_by_rounded_weights_go_to_the_lower_class() -> None:
    label = np.ones((2, 2, 1), np.uint8)
    label[0, 0] = 0  # at a third and a quarter of the way, both classes have a share of 1/2
    for upper, turned in itertools.product((0, 1), (slice(None), slice(None, None, -1))):
        resampled = resample_labels((label ^ upper)[turned], (4, 5, 1), 2)[turned]
        assert resampled[1, 1, 0] == 0


def test_target_shape_covers_the_same_extent() -> None:
    assert target_shape((78, 484, 512), (2.0, 0.7285, 0.7285), (1.0, 1.0, 1.0)) == (156, 353, 373)
    assert target_shape((10, 1, 3), (1.0, 1.0, 1.0), (100.0, 4.0, 1.5)) == (1, 1, 2)
