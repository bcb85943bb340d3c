"""Where the tiles of a whole volume lie, and how much each of their voxels counts: pure geometry.

All lengths are voxels of the network's grid; axes are z, y, x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpcseg.patches.geometry import PatchGeometry

Origin = tuple[int, int, int]


def tile_starts(length: int, tile: int, step: int, first: int) -> list[int]:
    """Origins along one axis from `first` (at most 0) in steps of `step` until `length` voxels are covered."""
    count = max(math.ceil((length - first - tile) / step), 0) + 1
    return [first + index * step for index in range(count)]


def tile_origins(shape_zyx: tuple[int, ...], geometry: PatchGeometry, step: int) -> Iterator[Origin]:
    """Origins of the tiles of `geometry.patch` voxels that cover a volume.

    They begin at the geometry's phase, so that with a `step` that is a multiple of its period every level is read
    straight from the stored pyramid, and a voxel's prediction does not depend on the tile's size.
    """
    first = geometry.phase - geometry.period if geometry.phase else 0
    z, y, x = (tile_starts(length, geometry.patch, step, first) for length in shape_zyx)
    return itertools.product(z, y, x)


def large_tile(shape_zyx: tuple[int, ...], geometry: PatchGeometry, limit: int) -> int:
    """Edge of a tile, a multiple of the period, at most `limit`, that covers a volume with little left over."""
    period = geometry.period
    longest = max(shape_zyx) + period
    tiles = max(math.ceil(longest / limit), 1)
    return max(math.ceil(longest / tiles / period), 1) * period


def gaussian_weights(patch: int, sigma: float) -> NDArray[np.float32]:
    """Weights of a patch's voxels: a Gaussian of `sigma` patch sizes at its centre (paper 3.1.2)."""
    offset = np.arange(patch) - (patch - 1) / 2
    axis = np.exp(-0.5 * (offset / (sigma * patch)) ** 2).astype(np.float32)
    weights: NDArray[np.float32] = axis[:, None, None] * axis[:, None] * axis
    return weights
