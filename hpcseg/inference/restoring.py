"""From probabilities on the network's grid to a mask on the scan's own, a few planes at a time. Pure.

Shape legend: C foreground classes, Z/Y/X the axes z, y, x; grids as in `segment`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes import scratch
from hpcseg.volumes.boxes import Box, bounding_box
from hpcseg.volumes.resample import linear_slabs

NEIGHBOURS: Literal[26] = 26  # voxels that share a face, an edge or a corner are connected

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


def most_probable(probability_CZYX: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Class of every voxel: one class where its probability is above ½, several: the largest, background included."""
    classes = len(probability_CZYX)
    mask_zyx = np.zeros(probability_CZYX.shape[1:], np.uint8)
    best = np.full(mask_zyx.shape, 0.5, np.float32) if classes == 1 else 1 - probability_CZYX.sum(axis=0)
    for label, probability_ZYX in enumerate(probability_CZYX, start=1):
        mask_zyx[probability_ZYX > best] = label
        np.maximum(best, probability_ZYX, out=best)
    return mask_zyx


def keep_largest(mask_zyx: NDArray[np.uint8], classes: int) -> None:
    """Set every voxel that is not in its class' largest component to background, in place.

    What lies apart from an organ is seldom part of it. Components are those of one class alone; of two that are equally
    large, one is kept.

    Args:
        mask_zyx: classes, 0 the background.
        classes: number of foreground classes.
    """
    import cc3d

    for label in range(1, classes + 1):
        part = mask_zyx[bounding_box(mask_zyx.shape, lambda planes: mask_zyx[planes] == label)]  # noqa: B023 called at once
        if not part.size:
            continue
        components = cc3d.connected_components(part == label, connectivity=NEIGHBOURS)
        sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"][1:]
        if len(sizes) > 1:
            largest = 1 + int(np.argmax(sizes))
            for planes in scratch.slabs(part.shape):
                found = components[planes]
                part[planes][(found != 0) & (found != largest)] = 0


def _outside(first: int, end: int, shape_CZYX: Sequence[int]) -> Iterator[Slab]:
    classes, _, *plane = shape_CZYX
    for part in scratch.slabs((end - first, *plane)):
        planes = slice(first + part.start, first + part.stop)
        yield planes, np.zeros((classes, planes.stop - planes.start, *plane), np.float32)
