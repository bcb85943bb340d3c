"""One scan's way to the network's grid: crop, resample. Packing and inference both use it.

Arrays are z, y, x in canonical orientation; intensities stay raw (HU for CT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.spec import IGNORED, Spacing
from hpcseg.volumes.boxes import Box, bounding_box
from hpcseg.volumes.pyramid import limits_of
from hpcseg.volumes.resample import one_thread, resample_cubic, resample_labels, target_shape
from hpcseg.volumes.scan_grid import ScanGrid
from hpcseg.volumes.scans import read_label, read_scan
from hpcseg.volumes.scratch import slabs
from hpcseg.volumes.voxels import Intensities

MAX_VOXELS = 2**31  # of a resampled volume; more is a wrong spacing
MAX_AXIS = 2**15  # the same of an axis: its matrix has as many rows

Classes = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A scan on the network's grid.

    Attributes:
        volume_zyx: float32, cropped and resampled, raw intensities.
        label_zyx: uint8 classes on the same grid, `IGNORED` where they are not to be known, or None.
        padding: intensity that stands for everything outside the volume.
        grid: of the scan.
        crop: where the volume lies in the scan, canonical voxels.
        unused: values of the label that are of no class, and so background.
    """

    volume_zyx: NDArray[np.float32]
    label_zyx: NDArray[np.uint8] | None
    padding: float
    grid: ScanGrid
    crop: Box
    unused: tuple[int, ...] = ()


def preprocess(
    image: Path,
    label: Path | None,
    *,
    spacing_zyx: Spacing,
    classes: Classes,
    padding: float | Literal["minimum"],
    ignore: int | None = None,
) -> Preprocessed:
    """Read a scan, crop it to the voxels above the padding, and resample it (paper 3.2.1).

    The result does not depend on the number of cores. Beside it, the scan as stored (integers of at most 16 bits, or
    float32) and a few tens of megabytes are in memory.

    Args:
        image: NIfTI scan.
        label: its label, or None.
        spacing_zyx: of the network's grid, mm.
        classes: label values of class 1, 2, ...; (): every value but 0 is class 1.
        padding: intensity of what is not body (air for CT), or the scan's own minimum; where that cuts nothing away, a
            few extreme voxels do not count.
        ignore: label value that stands for no class.

    Raises:
        BadInput: a file is missing, corrupt, or the label does not fit the image; the spacing gives too many voxels.
    """
    scan, grid = read_scan(image)
    outside = scan.extent[0] if padding == "minimum" else float(padding)
    crop = _box_above(scan, outside)
    shape = target_shape([axis.stop - axis.start for axis in crop], grid.spacing_zyx, spacing_zyx)
    if math.prod(shape) > MAX_VOXELS or max(shape) > MAX_AXIS:
        raise BadInput(
            f"{image}: {grid.spacing_zyx} mm resampled to {spacing_zyx} mm gives {shape} voxels, too many; "
            "correct the scan's header or preprocessing.spacing"
        )
    with one_thread():
        resampled = resample_cubic(scan.crop(crop), shape)
        if padding == "minimum" and tuple(axis.stop - axis.start for axis in crop) == scan.shape:
            outside = max(outside, limits_of(resampled)[0])
    del scan
    label_zyx, unused = None, ()  # type: NDArray[np.uint8] | None, tuple[int, ...]
    if label is not None:
        values_zyx = read_label(label, grid)[crop]
        merged, unused = merge_labels(values_zyx, classes, ignore), _unused(values_zyx, classes, ignore)
        with one_thread():
            label_zyx = resample_labels(merged, shape, n_classes(classes))
    return Preprocessed(resampled, label_zyx, outside, grid, crop, unused)


def n_classes(classes: Classes) -> int:
    """Number of classes with the background."""
    return max(1, len(classes)) + 1


def merge_labels(label_zyx: NDArray[np.uint8], classes: Classes, ignore: int | None = None) -> NDArray[np.uint8]:
    """Turn label values into classes: `classes[k − 1]` lists the values of class k; (): every value but 0 is class 1.

    The value `ignore` becomes `IGNORED`.

    Raises:
        BadInput: a value is not of 1 ... 255, or in two classes, or one that is ignored.
    """
    class_of = np.zeros(256, dtype=np.uint8)
    if not classes:
        class_of[1:] = 1
    for index, values in enumerate(classes, start=1):
        for value in values:
            if not 0 < value < 256:
                raise BadInput(f"data.foreground: {value} is no label value of the foreground; give 1 to 255")
            if class_of[value]:
                raise BadInput(f"data.foreground: label value {value} is in two classes; leave it in one")
            if value == ignore:
                raise BadInput(f"data.foreground: label value {value} is the one to be ignored; leave it out")
            class_of[value] = index
    if ignore is not None:
        class_of[ignore] = IGNORED
    merged = np.empty(label_zyx.shape, dtype=np.uint8)
    for planes in slabs(label_zyx.shape):  # as numpy takes 8 bytes for an index
        merged[planes] = class_of[label_zyx[planes]]
    return merged


def _unused(label_zyx: NDArray[np.uint8], classes: Classes, ignore: int | None) -> tuple[int, ...]:
    """Values of a label that are of no class, and are not ignored."""
    counts = sum(np.bincount(label_zyx[planes].ravel(), minlength=256) for planes in slabs(label_zyx.shape))
    known = {0, ignore, *(value for values in classes for value in values)}
    return tuple(value for value in np.flatnonzero(counts).tolist() if classes and value not in known)


def _box_above(scan: Intensities, outside: float) -> Box:
    """Bounding box of the voxels above `outside`; the whole volume if there are none."""
    slowest_first = np.argsort([-abs(stride) for stride in scan.stored_zyx.strides]).tolist()
    turned = Intensities(scan.stored_zyx.transpose(slowest_first), scan.slope, scan.inter)
    found = bounding_box(turned.shape, lambda part: turned[part] > outside)
    z, y, x = (found[slowest_first.index(axis)] for axis in range(3))
    return (z, y, x) if z.stop else (slice(0, scan.shape[0]), slice(0, scan.shape[1]), slice(0, scan.shape[2]))
