"""Boxes of voxels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes.scratch import slabs

Triple = tuple[int, int, int]  # z, y, x
Box = tuple[slice, slice, slice]


def intersection(start_3: Sequence[int], size_3: Sequence[int], shape_zyx: Sequence[int]) -> tuple[Box, Box]:
    """Return where a box meets a volume: in the volume and in the box; slices are empty where they do not meet.

    >>> in_volume, in_box = intersection((-2, 4, 6), (5, 3, 4), (8, 8, 8))
    >>> in_volume
    (slice(0, 3, None), slice(4, 7, None), slice(6, 8, None))
    >>> in_box
    (slice(2, 5, None), slice(0, 3, None), slice(0, 2, None))

    Args:
        start_3: first voxel of the box, in the volume's voxels; may lie beyond it.
        size_3: shape of the box.
        shape_zyx: of the volume.
    """
    volume, box = [], []
    for start, size, length in zip(start_3, size_3, shape_zyx, strict=True):
        low = min(max(start, 0), length)
        high = max(min(start + size, length), low)
        volume.append(slice(low, high))
        box.append(slice(low - start, high - start))
    (z, y, x), (own_z, own_y, own_x) = volume, box
    return (z, y, x), (own_z, own_y, own_x)


def bounding_box(shape_zyx: Sequence[int], inside: Callable[[slice], NDArray[np.bool_]]) -> Box:
    """The smallest box that holds every voxel that is inside; three empty slices where none is.

    >>> mask_zyx = np.zeros((9, 9, 9), bool)
    >>> mask_zyx[2, 3:5, 4] = True
    >>> bounding_box(mask_zyx.shape, lambda planes: mask_zyx[planes])
    (slice(2, 3, None), slice(3, 5, None), slice(4, 5, None))

    Args:
        shape_zyx: of the volume.
        inside: which voxels of a few planes are inside, bool (n, y, x); asked for all planes, in order.
    """
    planes = np.zeros(shape_zyx[0], dtype=np.bool_)
    plane = np.zeros(tuple(shape_zyx[1:]), dtype=np.bool_)
    for part in slabs(shape_zyx):
        found = inside(part)
        planes[part] = found.any(axis=(1, 2))
        plane |= found.any(axis=0)
    rows, columns = np.logical_or.reduce(plane, axis=1), np.logical_or.reduce(plane, axis=0)
    return _extent(planes), _extent(rows), _extent(columns)


def _extent(inside: NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(inside)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
