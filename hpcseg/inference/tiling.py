"""Where the tiles of a whole volume lie, and how much each of their voxels counts: pure geometry.

All lengths are voxels of the network's grid; axes are z, y, x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcseg.patches.geometry import PatchGeometry, Triple
from hpcseg.volumes.boxes import Box, intersection

Starts = tuple[list[int], list[int], list[int]]


def tile_starts(length: int, tile: int, step: int, first: int) -> list[int]:
    """Origins along one axis from `first` (at most 0) in steps of `step` until `length` voxels are covered."""
    count = max(math.ceil((length - first - tile) / step), 0) + 1
    return [first + index * step for index in range(count)]


def axes_starts(shape_zyx: Sequence[int], geometry: PatchGeometry, step: int) -> Starts:
    """Origins along each axis of the tiles of `geometry.patch` voxels that cover a volume: all of their combinations.

    They begin at the geometry's phase, so that with a `step` that is a multiple of its period every level is read
    straight from the stored pyramid, and a voxel's prediction does not depend on the tile's size.
    """
    first = geometry.phase - geometry.period if geometry.phase else 0
    z, y, x = (tile_starts(length, geometry.patch, step, first) for length in shape_zyx)
    return z, y, x


def large_tile(shape_zyx: Sequence[int], geometry: PatchGeometry, limit: int) -> int:
    """Edge of the tiles, a multiple of the period, that cover a volume with the least input; at most `limit`.

    It never depends on measured times: from tiles of another edge, sums may be rounded otherwise.
    """
    period = geometry.period
    edges = range(period, max(limit // period, 1) * period + 1, period)
    return min(edges, key=lambda edge: (_input_voxels(shape_zyx, geometry.resized(edge)), edge))


def _input_voxels(shape_zyx: Sequence[int], geometry: PatchGeometry) -> int:
    """What a network is given to cover a volume without overlap: the measure of its work."""
    along = []  # each axis, for each level the edges of all boxes: those of the last tile end with the volume
    for length, starts in zip(shape_zyx, axes_starts(shape_zyx, geometry, geometry.patch), strict=True):
        last = geometry.trimmed(length - starts[-1])
        along.append([(len(starts) - 1) * edge + end for edge, end in zip(geometry.inputs, last.inputs, strict=True)])
    return sum(map(math.prod, zip(*along, strict=True)))


def axis_shares(length: int, starts: Sequence[int], tile: int, sigma: float | None) -> NDArray[np.float32]:
    """Share of each tile in the mean at each voxel of one axis: float32 (tiles, `length`), columns sum to 1.

    The weight of a tile's voxel is a Gaussian of `sigma` tile edges about the tile's centre (paper 3.1.2), or 1 with
    None. A weight of three dimensions is the product of those of its axes, and so is a share.
    """
    inside = np.arange(length) - np.array(starts)[:, None]
    width = math.inf if sigma is None else sigma * tile
    logarithm = -0.5 * ((inside - (tile - 1) / 2) / width) ** 2
    logarithm[(inside < 0) | (inside >= tile)] = -math.inf
    weights = np.exp(logarithm - logarithm.max(axis=0))  # narrow Gaussians do not vanish
    shares: NDArray[np.float32] = (weights / weights.sum(axis=0)).astype(np.float32)
    return shares


@dataclass(frozen=True)
class Tiling:
    """The tiles of one volume, in layers along z; a tile is called by its index along each axis.

    Attributes:
        shape_zyx: of the volume.
        geometry: of one tile.
        starts: of the tiles, along each axis.
        shares: (tiles, voxels) per axis, how much a tile counts at a voxel.
    """

    shape_zyx: Triple
    geometry: PatchGeometry
    starts: Starts
    shares: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, shape_zyx: Triple, geometry: PatchGeometry, step: int, sigma: float | None) -> Tiling:
        """Tiles every `step` voxels, weighted by a Gaussian of `sigma` tile edges, or all alike."""
        starts = axes_starts(shape_zyx, geometry, step)
        shares = (axis_shares(n, own, geometry.patch, sigma) for n, own in zip(shape_zyx, starts, strict=True))
        return cls(shape_zyx, geometry, starts, tuple(shares))

    def __iter__(self) -> Iterator[Triple]:
        """All tiles, layer after layer."""
        z, y, x = (range(len(starts)) for starts in self.starts)
        return itertools.product(z, y, x)

    @property
    def per_layer(self) -> int:
        """Number of tiles with one start along z."""
        return len(self.starts[1]) * len(self.starts[2])

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.starts[0]) * self.per_layer

    def origin(self, tile: Triple) -> Triple:
        """First corner of a tile."""
        z, y, x = (starts[index] for starts, index in zip(self.starts, tile, strict=True))
        return z, y, x

    def places(self, tile: Triple) -> tuple[Box, Box]:
        """Where a tile and the volume meet: in the volume and in the tile; empty if nowhere."""
        return intersection(self.origin(tile), (self.geometry.patch,) * 3, self.shape_zyx)

    def boxes(self, tile: Triple) -> list[Triple]:
        """Edges (z, y, x) of the input box of each level that a tile has without what lies beyond the far faces."""
        trimmed = [self.geometry.trimmed(own.stop).inputs for own in self.places(tile)[1]]
        return list(zip(*trimmed, strict=True))

    def meets(self, tile: Triple) -> bool:
        """Whether any voxel of the tile lies in the volume."""
        return all(axis.stop > axis.start for axis in self.places(tile)[0])

    def finished(self, layer: int) -> int:
        """Number of the volume's first planes that no later layer of tiles adds to."""
        later = self.starts[0][layer + 1 :]
        return min(max(later[0], 0), self.shape_zyx[0]) if later else self.shape_zyx[0]
