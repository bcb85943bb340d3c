"""Probabilities on their way back to the scan's grid, a few planes at a time: only those that are needed are kept.

Shape legend: C foreground classes; Z/Y/X the axes z, y, x of the network's grid, or of the scan's where it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes.boxes import Box
from hpcseg.volumes.resample import linear_slabs
from hpcseg.volumes.scratch import slabs

Slab = tuple[slice, NDArray[np.float32]]


def restored(
    predicted: Iterator[NDArray[np.float32]],
    shape_CZYX: Sequence[int],
    crop: Box,
    scan_shape: Sequence[int],
) -> Iterator[Slab]:
    """Resample probabilities linearly to the scan's canonical grid.

    Args:
        predicted: (C, planes, Y, X) on the network's grid, from its first plane to its last.
        shape_CZYX: of all of them.
        crop: where that grid lies in the scan.
        scan_shape: z, y, x.

    Yields:
        Every plane of the scan once, ascending, and (C, planes, Y, X) float32 there, 0 outside the crop.
    """
    classes, first, end = shape_CZYX[0], crop[0].start, crop[0].stop
    yield from _outside(0, first, (classes, *scan_shape))
    inner = [axis.stop - axis.start for axis in crop]
    for rows, values in linear_slabs(predicted, shape_CZYX, inner):
        slab = np.zeros((classes, rows.stop - rows.start, *scan_shape[1:]), np.float32)
        for own, value in zip(slab, values, strict=True):
            own[:, *crop[1:]] = value
        yield slice(first + rows.start, first + rows.stop), slab
    yield from _outside(end, scan_shape[0], (classes, *scan_shape))


def _outside(first: int, end: int, shape_CZYX: Sequence[int]) -> Iterator[Slab]:
    classes, _, *plane = shape_CZYX
    for part in slabs((end - first, *plane)):
        planes = slice(first + part.start, first + part.stop)
        yield planes, np.zeros((classes, planes.stop - planes.start, *plane), np.float32)
