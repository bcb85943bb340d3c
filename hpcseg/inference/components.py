"""Connected components of a mask: what lies apart from an organ is seldom part of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes.slabs import slabs

NEIGHBOURS: Literal[26] = 26  # voxels that share a face, an edge or a corner are connected


def keep_largest(mask_zyx: NDArray[np.uint8], classes: int) -> None:
    """Set every voxel that is not in its class' largest component to background, in place.

    Components are those of one class alone; of two that are equally large, one is kept.

    Args:
        mask_zyx: classes, 0 the background.
        classes: number of foreground classes.
    """
    import cc3d

    for label in range(1, classes + 1):
        box = bounding_box(mask_zyx, label)
        if box is None:
            continue
        part = mask_zyx[box]
        components = cc3d.connected_components(part == label, connectivity=NEIGHBOURS)
        sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"][1:]
        if len(sizes) > 1:
            largest = 1 + int(np.argmax(sizes))
            for planes in slabs(part.shape):
                found = components[planes]
                part[planes][(found != 0) & (found != largest)] = 0


def bounding_box(mask_zyx: NDArray[np.uint8], label: int) -> tuple[slice, ...] | None:
    """Smallest box around a class; None where there is no voxel of it."""
    found = [np.zeros(n, bool) for n in mask_zyx.shape]
    for planes in slabs(mask_zyx.shape):
        part = mask_zyx[planes] == label
        found[0][planes] = part.any(axis=(1, 2))
        found[1] |= part.any(axis=(0, 2))
        found[2] |= part.any(axis=(0, 1))
    if not found[0].any():
        return None
    return tuple(slice(int(axis.argmax()), len(axis) - int(axis[::-1].argmax())) for axis in found)
