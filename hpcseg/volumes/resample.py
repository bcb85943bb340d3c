"""Resampling as one matrix product per axis. Pure.

Cubic-spline zoom is linear and separable: the matrix of an axis is what `scipy.ndimage.zoom(order=3)` does to the
columns of the identity. The first and last voxel of an axis stay where they are (corner-aligned), as in scipy.
Arrays are z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hpcseg.spec import Spacing

Triple = tuple[int, int, int]
Matrix = NDArray[np.float32]


@lru_cache(maxsize=256)
def cubic_matrix(n_in: int, n_out: int) -> Matrix:
    """Cubic-spline interpolation of one axis: float32 (n_out, n_in), read-only."""
    matrix = np.eye(n_in, dtype=np.float32)
    if n_in != n_out:
        # Within the axis "mirror" is the default mode's own boundary rule; beyond it, where rounding can put the last
        # coordinate, the default mode would give 0.
        columns = [ndimage.zoom(column, n_out / n_in, order=3, mode="mirror") for column in np.eye(n_in)]
        matrix = np.stack(columns, axis=1).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=256)
def linear_matrix(n_in: int, n_out: int) -> Matrix:
    """Linear interpolation of one axis: float32 (n_out, n_in), read-only."""
    matrix = np.zeros((n_out, n_in), dtype=np.float32)
    for row in range(n_out):
        left, rest = divmod(row * (n_in - 1), max(n_out - 1, 1))  # in integers: ties stay exact
        weight = np.float32(rest / max(n_out - 1, 1))
        matrix[row, left] = 1 - weight
        if rest:
            matrix[row, left + 1] = weight
    matrix.flags.writeable = False
    return matrix


def resample_cubic(volume_zyx: NDArray[np.float32], shape_zyx: Sequence[int]) -> NDArray[np.float32]:
    """Resample intensities to `shape_zyx` with cubic splines; scipy's own values to float32 rounding."""
    return _resample(volume_zyx, shape_zyx, cubic_matrix)


def resample_linear(volume_zyx: NDArray[np.float32], shape_zyx: Sequence[int]) -> NDArray[np.float32]:
    """Resample to `shape_zyx` linearly, for instance probabilities."""
    return _resample(volume_zyx, shape_zyx, linear_matrix)


def resample_labels(label_zyx: NDArray[np.uint8], shape_zyx: Sequence[int], n_classes: int) -> NDArray[np.uint8]:
    """Resample classes: linear on the one-hot label, then argmax; ties go to the lower class (decision).

    Args:
        label_zyx: uint8 classes 0 ... n_classes − 1.
        shape_zyx: wanted shape.
        n_classes: number of classes with the background.
    """
    if tuple(label_zyx.shape) == tuple(shape_zyx):
        return label_zyx.copy()
    if n_classes == 2:
        share = resample_linear((label_zyx == 1).astype(np.float32), shape_zyx)
        return (share > 0.5).astype(np.uint8)
    best = resample_linear((label_zyx == 0).astype(np.float32), shape_zyx)
    label = np.zeros(best.shape, dtype=np.uint8)
    for index in range(1, n_classes):
        share = resample_linear((label_zyx == index).astype(np.float32), shape_zyx)
        label[share > best] = index
        np.maximum(best, share, out=best)
    return label


def target_shape(shape_zyx: Sequence[int], spacing_zyx: Spacing, target_zyx: Spacing) -> Triple:
    """Voxels per axis that cover the same extent at the spacing `target_zyx` (mm), at least 1."""
    z, y, x = (
        max(1, round(n * spacing / target))
        for n, spacing, target in zip(shape_zyx, spacing_zyx, target_zyx, strict=True)
    )
    return z, y, x


def _resample(
    volume_zyx: NDArray[np.float32], shape_zyx: Sequence[int], matrix: Callable[[int, int], Matrix]
) -> NDArray[np.float32]:
    """Apply the axes' matrices, the one that shrinks most first, so that what lies between is small."""
    result = np.asarray(volume_zyx, dtype=np.float32)
    for axis in sorted(range(3), key=lambda axis: shape_zyx[axis] / result.shape[axis]):
        n_in, n_out = result.shape[axis], shape_zyx[axis]
        if n_in != n_out:
            result = _along(np.ascontiguousarray(result), matrix(n_in, n_out), axis)
    return result.copy() if result is volume_zyx else result


def _along(volume: NDArray[np.float32], matrix: Matrix, axis: int) -> NDArray[np.float32]:
    """Matrix product along one axis of a contiguous volume, with no transposed copy."""
    z, y, x = volume.shape
    product: NDArray[np.float32]
    if axis == 0:
        product = (matrix @ volume.reshape(z, y * x)).reshape(-1, y, x)
    elif axis == 1:
        product = np.matmul(matrix, volume)
    else:
        product = (volume.reshape(z * y, x) @ matrix.T).reshape(z, y, -1)
    return product
