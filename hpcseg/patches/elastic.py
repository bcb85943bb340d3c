"""Smooth random displacements: a uniform cubic B-spline of control vectors in a patch's own frame.

A patch shows, at position p, what lies at p + u(p), with u(p) = Σ B(z) B(y) B(x) c over the 4³ control points around p.
B is never negative and sums to 1, so no displacement is larger than the largest control vector, along each axis. The
control points stand around the target's centre, so every level and the label of a patch have the same u.

Positions are level-0 voxels, z y x, from the target's centre.

Shapes: B batch, N control points along an axis, D edge of a cube, 4 control points that a position has along an axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.patches.geometry import PatchGeometry

_ROUNDING = 1e-6  # spacings by which a voxel may seem to lie on the other side of a control point; it is far less


class Taps(NamedTuple):
    """Which control points reach each voxel along an axis of a cube, the same for all three axes.

    Attributes:
        first_D: int32; the first of the four.
        weights_4D: float32; of the four.
    """

    first_D: Tensor
    weights_4D: Tensor


@dataclass(frozen=True)
class ControlGrid:
    """Control points around a target's centre: number i of `count` stands at (i − (count − 1) / 2) · spacing."""

    spacing: float
    count: int

    @classmethod
    def over(cls, geometry: PatchGeometry, spacing: float) -> ControlGrid:
        """A grid, not larger than it has to be, whose points surround every voxel of a patch on all levels."""
        levels = zip(geometry.origins, geometry.inputs, strict=True)
        places = [positions(geometry, level, corner, size) for level, (corner, size) in enumerate(levels)]
        farthest = max(float(np.abs(places_D).max()) for places_D in places)
        return cls(spacing, int(2 * farthest / spacing + _ROUNDING) + 4)

    def taps(self, positions_D: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """What `Taps` holds, for positions along an axis.

        >>> first, weights = ControlGrid(spacing=10.0, count=4).taps(np.array([-5.0, 0.0]))
        >>> first.tolist(), (48 * weights[:, 1]).round(3).tolist()
        ([0, 0], [1.0, 23.0, 23.0, 1.0])
        """
        places_D = positions_D / self.spacing + (self.count - 1) / 2
        below_D = np.floor(places_D)
        t = places_D - below_D
        weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
        return below_D.astype(np.int32) - 1, (np.stack(weights) / 6).astype(np.float32)


def positions(geometry: PatchGeometry, level: int, corner: int, size: int) -> NDArray[np.float64]:
    """Where the voxels of a cube lie along an axis.

    Args:
        geometry: of the patch.
        level: of the cube's voxels.
        corner: its first corner relative to the target's, in level-0 voxels.
        size: its edge, in voxels of `level`.
    """
    places_D: NDArray[np.float64] = corner + (np.arange(size) + 0.5) * 2**level - 0.5 - (geometry.patch - 1) / 2
    return places_D


def displacements(controls_B3NNN: Tensor, taps: Taps) -> Tensor:
    """The spline at every voxel of cubes, (B, 3, D, D, D), in the unit of the control vectors.

    Products and sums of single numbers, each rounded for itself: any batch and any number of threads gives the same
    bits, and nothing runs in a lower precision.
    """
    values = controls_B3NNN
    for axis in (4, 3, 2):  # z last, where most is computed and whole planes are taken
        shape = [-1 if dim == axis else 1 for dim in range(5)]
        total: Tensor | None = None
        for tap, weights_D in enumerate(taps.weights_4D):
            part = values.index_select(axis, taps.first_D + tap).mul_(weights_D.view(shape))
            total = part if total is None else total.add_(part)
        assert total is not None
        values = total
    return values
