"""Reading the boxes of a foveal patch from the stored pyramid (design, "One rule for reading a box").

A voxel of level l is the mean of 2^l voxels cubed of level 0, counted from the box's own corner. Where that corner is a
whole voxel of a stored level, that level holds such means already; only the rest of the way is averaged here. All
origins give the same values to the rounding of the int16 coding; aligned ones are cheapest.

Positions are level-0 voxels, z y x; boxes are cubes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpcseg.patches.geometry import FovealGeometry
from hpcseg.volumes.pyramid import pool
from hpcseg.volumes.store import LEVELS


class BoxReader(Protocol):
    """A volume at all stored levels: a case of a store, or a scan in memory."""

    def read(self, level: int, start_3: Sequence[int], size_3: Sequence[int]) -> NDArray[np.int16]:
        """Codes of a box, in voxels of `level`; outside the volume, of the padding."""

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Intensities of codes."""


def read_box(
    case: BoxReader, level: int, corner_3: tuple[int, int, int], size: int, clip: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Read a cube of one level, wherever it lies; voxels outside the volume have the padding value.

    Args:
        case: the volume.
        level: resolution, 0 the finest; may be coarser than the stored ones.
        corner_3: first corner, in level-0 voxels.
        size: edge, in voxels of `level`.
        clip: the store's `pyramid_clip`, that is, what intensities were clipped to before they were averaged.

    Returns:
        (size, size, size) intensities.
    """
    stored = stored_level(level, corner_3)
    z, y, x = (position >> stored for position in corner_3)
    edge = size << (level - stored)
    volume_zyx = case.decode(case.read(stored, (z, y, x), (edge, edge, edge)))
    if stored == 0 < level and clip is not None:
        np.clip(volume_zyx, *clip, out=volume_zyx)
    return pool(volume_zyx, 1 << (level - stored))


def stored_level(level: int, corner_3: tuple[int, int, int]) -> int:
    """Return the coarsest of the stored levels, but none coarser than `level`, on which the corner is a whole voxel."""
    stored = min(level, LEVELS - 1)
    while any(position % (1 << stored) for position in corner_3):
        stored -= 1
    return stored


def read_sample(
    case: BoxReader,
    geometry: FovealGeometry,
    origin_3: tuple[int, int, int],
    levels: Sequence[int],
    clip: tuple[float, float] | None,
) -> list[NDArray[np.float32]]:
    """Read the input boxes of one patch.

    Args:
        case: the volume.
        geometry: sizes and places of the boxes.
        origin_3: first corner of the target.
        levels: which boxes, in the order wanted.
        clip: the store's `pyramid_clip`.

    Returns:
        One cube of intensities per level, of edge `geometry.inputs[level]`.
    """
    boxes = []
    for level in levels:
        z, y, x = (position + geometry.origins[level] for position in origin_3)
        boxes.append(read_box(case, level, (z, y, x), geometry.inputs[level], clip))
    return boxes
