"""Resampling as one matrix product per axis. Pure.

Cubic-spline zoom is linear and separable: the matrix of an axis is what `scipy.ndimage.zoom(order=3)` does to the
columns of the identity. The first and last voxel of an axis stay where they are (corner-aligned), as in scipy.
An entry is 3.7 times smaller with every voxel further away, so that a few rows of a matrix need few of its columns:
a volume is resampled slab by slab, and little memory is needed beside source and result. Arrays are z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hpcseg.spec import IGNORED, Spacing
from hpcseg.volumes import scratch
from hpcseg.volumes.boxes import Triple
from hpcseg.volumes.voxels import Intensities

Matrix = NDArray[np.float32]
MatrixOf = Callable[[int, int], Matrix]
ReadPlanes = Callable[[slice], NDArray[Any]]  # a few planes of a volume, (n, y, x)

_PLANES = 8  # of the result, made at a time
_ROWS = 32  # of the result within a plane, made at a time
_PREPARED = 1 << 18  # voxels of the source, prepared at a time
_NEGLIGIBLE = 1e-9  # share of a voxel; float32 rounds at 6e-8
_TIE = 1e-6  # shares of classes this close are equal but for rounding


@lru_cache(maxsize=256)
def cubic_matrix(n_in: int, n_out: int) -> Matrix:
    """Cubic-spline interpolation of one axis: float32 (n_out, n_in), read-only."""
    matrix = np.eye(n_in, dtype=np.float32)
    if n_in != n_out:
        from scipy import ndimage  # half a second, which the network's loading need not wait for

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


def resample_cubic(volume_zyx: NDArray[Any] | Intensities, shape_zyx: Sequence[int]) -> NDArray[np.float32]:
    """Resample intensities to `shape_zyx` with cubic splines; scipy's own values to float32 rounding."""
    resampled: NDArray[np.float32] = scratch.empty(shape_zyx, np.float32)
    zoom = _Zoom(volume_zyx.shape, shape_zyx, cubic_matrix)
    for band, slab in zip(zoom.bands, zoom.slabs(lambda planes: volume_zyx[planes], zoom.bands), strict=True):
        resampled[band.rows] = slab
        scratch.release(resampled)
    return resampled


def linear_slabs(
    arriving: Iterator[NDArray[np.float32]], shape_CZYX: Sequence[int], shape_zyx: Sequence[int]
) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
    """Resample volumes linearly, a few planes of the result at a time, while their own planes arrive.

    Args:
        arriving: (C, planes, Y, X), from the first plane to the last; asked for no sooner than they are needed.
        shape_CZYX: of all that arrives.
        shape_zyx: wanted shape.

    Yields:
        Planes of the result, ascending, and their values in each of the C volumes, valid until the next are asked for.
    """
    zooms = [_Zoom(shape_CZYX[1:], shape_zyx, linear_matrix) for _ in range(shape_CZYX[0])]
    waiting = np.empty((shape_CZYX[0], 0, *shape_CZYX[2:]), np.float32)
    first = 0  # of the planes that wait

    def planes_of(index: int) -> ReadPlanes:
        return lambda planes: waiting[index, planes.start - first : planes.stop - first]

    streams = [zoom.slabs(planes_of(index), zoom.bands) for index, zoom in enumerate(zooms)]
    for band in zooms[0].bands:
        while first + waiting.shape[1] < band.columns.stop:
            slab = next(arriving)
            waiting = np.concatenate([waiting, slab], axis=1) if waiting.shape[1] else slab
        with one_thread():
            slabs_of_all = [next(stream) for stream in streams]
        yield band.rows, slabs_of_all
        waiting, first = waiting[:, max(band.columns.stop - first, 0) :], max(first, band.columns.stop)


def one_thread() -> threadpool_limits:
    """While it is open, matrix products run in one thread: their last bits depend on the number of threads."""
    return threadpool_limits(1, user_api="blas")


def resample_labels(label_zyx: NDArray[np.uint8], shape_zyx: Sequence[int], n_classes: int) -> NDArray[np.uint8]:
    """Resample classes: linear on the one-hot label, then argmax; ties go to the lower class (decision).

    Args:
        label_zyx: uint8 classes 0 ... n_classes − 1.
        shape_zyx: wanted shape.
        n_classes: number of classes with the background; `IGNORED` is resampled like a class after all others.
    """
    if tuple(label_zyx.shape) == tuple(shape_zyx):
        return label_zyx.copy()
    resampled = np.empty(tuple(shape_zyx), dtype=np.uint8)
    zoom = _Zoom(label_zyx.shape, shape_zyx, linear_matrix)

    def share_of(index: int, band: _Band) -> NDArray[np.float32]:
        return next(zoom.slabs(lambda planes: np.equal(label_zyx[planes], index), [band]))

    for band in zoom.bands:
        source, target = label_zyx[band.columns], resampled[band.rows]
        first, *others = [index for index in (*range(n_classes), IGNORED) if (source == index).any()]
        target[...] = first
        if not others:
            continue
        best = share_of(first, band)
        if len(others) == 1:  # its share is the rest
            target[best < 0.5 - _TIE / 2] = others[0]
            continue
        best = best.copy()
        for index in others:
            share = share_of(index, band)
            target[share > best + np.float32(_TIE)] = index
            np.maximum(best, share, out=best)
    return resampled


def target_shape(shape_zyx: Sequence[int], spacing_zyx: Spacing, target_zyx: Spacing) -> Triple:
    """Voxels per axis that cover the same extent at the spacing `target_zyx` (mm), 1 to 2⁶²."""
    z, y, x = (
        max(1, round(min(n * spacing / target, 2.0**62)))
        for n, spacing, target in zip(shape_zyx, spacing_zyx, target_zyx, strict=True)
    )
    return z, y, x


class _Band(NamedTuple):
    """A few rows of a matrix and the only columns that matter to them."""

    rows: slice
    columns: slice
    block: Matrix


def _bands(matrix: Matrix, size: int) -> list[_Band]:
    """Cut a matrix into bands of `size` rows; their columns begin and end in ascending order."""
    n_out = len(matrix)
    matters = np.abs(matrix) > _NEGLIGIBLE
    groups = [slice(first, min(first + size, n_out)) for first in range(0, n_out, size)]
    columns = [np.flatnonzero(matters[rows].any(axis=0)) for rows in groups]
    starts = np.minimum.accumulate([int(found[0]) for found in columns][::-1])[::-1].tolist()
    stops = np.maximum.accumulate([int(found[-1]) + 1 for found in columns]).tolist()
    return [
        _Band(rows, slice(start, stop), np.ascontiguousarray(matrix[rows, start:stop]))
        for rows, start, stop in zip(groups, starts, stops, strict=True)
    ]


class _Zoom:
    """The products along all axes, made slab by slab of the result: one slab per band of the z matrix.

    z comes first if it shrinks most, and last otherwise, so that what lies between is small.
    """

    def __init__(self, shape_in: Sequence[int], shape_out: Sequence[int], matrix: MatrixOf) -> None:
        axes = sorted(range(3), key=lambda axis: shape_out[axis] / shape_in[axis])
        within = [
            (axis, _bands(matrix(shape_in[axis], shape_out[axis]), _ROWS))
            for axis in axes
            if axis and shape_in[axis] != shape_out[axis]
        ]
        z_first = axes[0] == 0
        self.before, self.after = ([], within) if z_first else (within, [])
        self.bands = _bands(matrix(shape_in[0], shape_out[0]), _PLANES)
        self.plane_in = tuple(shape_in[1:])
        between = tuple(shape_in[1:]) if z_first else tuple(shape_out[1:])
        room = max(band.columns.stop - band.columns.start for band in self.bands)
        self.held = np.empty((room, *between), dtype=np.float32)
        self.product = np.empty((_PLANES, *between), dtype=np.float32)

    def slabs(self, read: ReadPlanes, bands: Sequence[_Band]) -> Iterator[NDArray[np.float32]]:
        """Planes `rows` of the result for each of some ascending bands, valid until the next are asked for.

        Only those planes of the source (z first), or of the source resampled within its planes (z last), are held
        that the slab at hand needs.
        """
        held = self.held
        first = end = 0  # of the planes that are held
        for _, columns, block in bands:
            for plane in range(columns.start, end):  # one by one: numpy would copy arrays that overlap
                held[plane - columns.start] = held[plane - first]
            first, end = columns.start, max(columns.start, end)
            for part in scratch.slabs((columns.stop - end, *self.plane_in), _PREPARED):
                new = read(slice(end + part.start, end + part.stop))
                held[end + part.start - first : end + part.stop - first] = _within_planes(new, self.before)
            end = columns.stop
            source, slab = held[: end - first], self.product[: len(block)]
            np.matmul(block, source.reshape(len(source), -1), out=slab.reshape(len(slab), -1))
            yield _within_planes(slab, self.after)


def _within_planes(volume: NDArray[Any], steps: Sequence[tuple[int, list[_Band]]]) -> NDArray[np.float32]:
    """Resample planes, (n, y, x), along y (axis 1) or x (2), each by the bands of its matrix."""
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    for axis, bands in steps:
        (n, y, x), n_out = volume.shape, bands[-1].rows.stop
        if axis == 1:
            product = np.empty((n, n_out, x), dtype=np.float32)
            for rows, columns, block in bands:
                np.matmul(block, volume[:, columns], out=product[:, rows])
        else:
            lines, product = volume.reshape(n * y, x), np.empty((n * y, n_out), dtype=np.float32)
            for rows, columns, block in bands:
                np.matmul(lines[:, columns], block.T, out=product[:, rows])
        volume = product.reshape(n, -1, product.shape[-1])
    return volume
