"""Boxes of voxels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes.scratch import slabs

Box = tuple[slice, slice, slice]


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
