"""One scan's way to the network's grid and back: crop, resample, restore. Packing and inference both use it.

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
from hpcseg.spec import Spacing
from hpcseg.volumes.resample import one_thread, resample_cubic, resample_labels, resample_linear, target_shape
from hpcseg.volumes.scans import ScanGrid, read_label, read_scan
from hpcseg.volumes.slabs import slabs
from hpcseg.volumes.voxels import Intensities

MAX_VOXELS = 2**31  # of a resampled volume; more is a wrong spacing

Crop = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Classes = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A scan on the network's grid.

    Attributes:
        volume_zyx: float32, cropped and resampled, raw intensities.
        label_zyx: uint8 classes on the same grid, or None.
        padding: intensity that stands for everything outside the volume.
        grid: of the scan.
        crop: first and end voxel of each canonical axis, z, y, x.
    """

    volume_zyx: NDArray[np.float32]
    label_zyx: NDArray[np.uint8] | None
    padding: float
    grid: ScanGrid
    crop: Crop

    def restore(self, values_zyx: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring values on the network's grid (a probability) back to the scan's canonical grid, linearly.

        Returns:
            float32 of shape `grid.shape_zyx`, 0 outside the crop.
        """
        restored = np.zeros(self.grid.shape_zyx, dtype=np.float32)
        box = tuple(slice(first, end) for first, end in self.crop)
        with one_thread():
            restored[box] = resample_linear(values_zyx, [end - first for first, end in self.crop])
        return restored


def preprocess(
    image: Path,
    label: Path | None,
    *,
    spacing_zyx: Spacing,
    classes: Classes,
    padding: float | Literal["minimum"],
) -> Preprocessed:
    """Read a scan, crop it to the voxels above the padding, and resample it (paper 3.2.1).

    The result does not depend on the number of cores. Beside it, the scan as stored (integers of at most 16 bits, or
    float32) and a few tens of megabytes are in memory.

    Args:
        image: NIfTI scan.
        label: its label, or None.
        spacing_zyx: of the network's grid, mm.
        classes: label values of class 1, 2, ...; (): every value but 0 is class 1.
        padding: intensity of what is not body (air for CT), or the scan's own minimum.

    Raises:
        BadInput: a file is missing, corrupt, or the label does not fit the image; the spacing gives too many voxels.
    """
    scan, grid = read_scan(image)
    outside = scan.extent[0] if padding == "minimum" else float(padding)
    crop = _box_above(scan, outside)
    box = tuple(slice(first, end) for first, end in crop)
    shape = target_shape([end - first for first, end in crop], grid.spacing_zyx, spacing_zyx)
    if math.prod(shape) > MAX_VOXELS:
        raise BadInput(
            f"{image}: {grid.spacing_zyx} mm resampled to {spacing_zyx} mm gives {shape} voxels, too many; "
            "correct the scan's header or preprocessing.spacing"
        )
    with one_thread():
        resampled = resample_cubic(scan.crop(box), shape)
    del scan
    label_zyx = None
    if label is not None:
        merged = merge_labels(read_label(label, grid)[box], classes)
        with one_thread():
            label_zyx = resample_labels(merged, shape, n_classes(classes))
    return Preprocessed(resampled, label_zyx, outside, grid, crop)


def n_classes(classes: Classes) -> int:
    """Number of classes with the background."""
    return max(1, len(classes)) + 1


def merge_labels(label_zyx: NDArray[np.uint8], classes: Classes) -> NDArray[np.uint8]:
    """Turn label values into classes: `classes[k − 1]` lists the values of class k; (): every value but 0 is class 1.

    Raises:
        BadInput: a value is not of 1 ... 255, or in two classes.
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
            class_of[value] = index
    merged = np.empty(label_zyx.shape, dtype=np.uint8)
    for planes in slabs(label_zyx.shape):  # as numpy takes 8 bytes for an index
        merged[planes] = class_of[label_zyx[planes]]
    return merged


def _box_above(scan: Intensities, outside: float) -> Crop:
    """Bounding box of the voxels above `outside`; the whole volume if there are none."""
    found = [np.zeros(n, dtype=bool) for n in scan.shape]
    slowest = int(np.argmax(np.abs(scan.stored_zyx.strides)))
    for part in slabs([scan.shape[slowest], *np.delete(scan.shape, slowest)]):
        box = tuple(part if axis == slowest else slice(None) for axis in range(3))
        above = scan[box] > outside
        found[0][box[0]] |= above.any(axis=(1, 2))
        found[1][box[1]] |= above.any(axis=(0, 2))
        found[2][box[2]] |= above.any(axis=(0, 1))
    if not found[0].any():
        found = [np.ones(n, dtype=bool) for n in scan.shape]
    z, y, x = ((int(voxels.argmax()), len(voxels) - int(voxels[::-1].argmax())) for voxels in found)
    return z, y, x
