"""Cubes of the coarsest voxels' edge or a multiple of it: what is cut along them is cut alike on every level.

Shapes: B patches, N blocks along an axis, D edge of a level's box.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hpcseg.patches.geometry import PatchGeometry


def blocks_along(geometry: PatchGeometry, block: int) -> list[Tensor]:
    """In which block along an axis the voxels of each level's box lie, (D) int64; blocks begin with the coarsest box.

    >>> from hpcseg.patches.geometry import FovealGeometry
    >>> [places.tolist() for places in blocks_along(FovealGeometry(patch=4, kernel=3, levels=2), block=4)]
    [[1, 1, 1, 2, 2, 2, 2, 3, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]]
    """
    import torch

    first, found = geometry.origins[-1], []
    for level, (origin, edge) in enumerate(zip(geometry.origins, geometry.inputs, strict=True)):
        found.append((origin - first + (torch.arange(edge) << level)) // block)
    return found


def coarsest_voxel(geometry: PatchGeometry) -> int:
    """Edge of a voxel of the coarsest level, in voxels of level 0."""
    return 1 << (geometry.levels - 1)


def whole_blocks(geometry: PatchGeometry) -> range:
    """Along an axis, the coarsest voxels that lie within the target, counted as in `blocks_along`.

    >>> from hpcseg.patches.geometry import FovealGeometry
    >>> whole_blocks(FovealGeometry(patch=24, kernel=3, levels=3))  # 2 voxels are left over on either side
    range(5, 10)
    """
    edge, first = coarsest_voxel(geometry), geometry.origins[-1]
    return range(-(first // edge), (geometry.patch - first) // edge)
