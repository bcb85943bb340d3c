"""Connected components of a mask: what lies apart from an organ is seldom part of it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes.boxes import bounding_box
from hpcseg.volumes.scratch import slabs

NEIGHBOURS: Literal[26] = 26  # voxels that share a face, an edge or a corner are connected


def keep_largest(mask_zyx: NDArray[np.uint8], classes: int) -> None:
    """Set every voxel that is not in its class' largest component to background, in place.

    Components are those of one class alone; of two that are equally large, one is kept.

    Args:
        mask_zyx: classes, 0 the background.
        classes: number of foreground classes.
    """
    for label in range(1, classes + 1):
        _keep_largest_of(mask_zyx, label)


def _keep_largest_of(mask_zyx: NDArray[np.uint8], label: int) -> None:
    import cc3d

    part = mask_zyx[bounding_box(mask_zyx.shape, lambda planes: mask_zyx[planes] == label)]
    if not part.size:
        return
    components = cc3d.connected_components(part == label, connectivity=NEIGHBOURS)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"][1:]
    if len(sizes) > 1:
        largest = 1 + int(np.argmax(sizes))
        for planes in slabs(part.shape):
            found = components[planes]
            part[planes][(found != 0) & (found != largest)] = 0
