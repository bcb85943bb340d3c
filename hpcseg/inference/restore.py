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
    network_shape: Sequence[int],
    classes: int,
    crop: Box,
    scan_shape: Sequence[int],
) -> Iterator[Slab]:
    """Resample probabilities linearly to the scan's canonical grid.

    Args:
        predicted: (C, planes, Y, X) on the network's grid, from its first plane to its last.
        network_shape: of that grid, z, y, x.
        classes: C.
        crop: where that grid lies in the scan.
        scan_shape: z, y, x.

    Yields:
        Every plane of the scan once, ascending, and (C, planes, Y, X) float32 there, 0 outside the crop.
    """
    first, end = crop[0].start, crop[0].stop
    for planes in _outside(0, first, scan_shape):
        yield planes, np.zeros((classes, planes.stop - planes.start, *scan_shape[1:]), np.float32)
    held = _Held(predicted, network_shape, classes)
    inner = [axis.stop - axis.start for axis in crop]
    for rows, values in linear_slabs(held.volumes, inner, held.fetch):
        slab = np.zeros((classes, rows.stop - rows.start, *scan_shape[1:]), np.float32)
        for own, value in zip(slab, values, strict=True):
            own[:, *crop[1:]] = value
        yield slice(first + rows.start, first + rows.stop), slab
    for planes in _outside(end, scan_shape[0], scan_shape):
        yield planes, np.zeros((classes, planes.stop - planes.start, *scan_shape[1:]), np.float32)


def _outside(first: int, end: int, scan_shape: Sequence[int]) -> Iterator[slice]:
    for planes in slabs((end - first, *scan_shape[1:])):
        yield slice(first + planes.start, first + planes.stop)


class _Held:
    """Predicted planes between the first that is still needed and the last that is made."""

    def __init__(self, predicted: Iterator[NDArray[np.float32]], shape: Sequence[int], classes: int) -> None:
        self._predicted = predicted
        self._slabs: list[tuple[int, NDArray[np.float32]]] = []  # first plane, values
        self._made = 0
        self.volumes = [_OneClass(self, index, tuple(shape), last=index == classes - 1) for index in range(classes)]

    def fetch(self, count: int) -> None:
        """Have the first `count` planes made."""
        while self._made < count:
            slab = next(self._predicted)
            self._slabs.append((self._made, slab))
            self._made += slab.shape[1]

    def take(self, index: int, planes: slice, last: bool) -> NDArray[np.float32]:
        """Planes of one class; the last class to ask for them lets them go."""
        parts = [
            slab[index, max(planes.start - first, 0) : planes.stop - first]
            for first, slab in self._slabs
            if first < planes.stop and planes.start < first + slab.shape[1]
        ]
        if last:
            self._slabs = [(first, slab) for first, slab in self._slabs if first + slab.shape[1] > planes.stop]
        return np.concatenate(parts)


class _OneClass:
    """One class of them, as `resample.Planes`."""

    def __init__(self, held: _Held, index: int, shape: tuple[int, ...], *, last: bool) -> None:
        self._held, self._index, self._last = held, index, last
        self.shape = shape

    def __getitem__(self, planes: slice, /) -> NDArray[np.float32]:
        return self._held.take(self._index, planes, self._last)
