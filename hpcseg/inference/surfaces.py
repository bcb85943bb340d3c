"""Distances between the surfaces of two masks, in mm. Shape legend: z, y, x the axes of a mask; S surface voxels.

A surface is the set of a mask's voxels of which one of the six neighbours lies outside; what is beyond the array counts
as outside. Distances are between voxel centres. These are the definitions of MONAI 1.6 (without subvoxels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from hpcseg.spec import Spacing
from hpcseg.volumes.boxes import Box, bounding_box

Mask = NDArray[np.bool_]
Steps = Spacing | NDArray[np.float64]  # voxel size, or steps along z, y, x as rows (3, 3), where axes are sheared; mm

_DENSE = 0.1  # share of surface voxels above which transforming the whole box takes less time than searching a tree
_LEAF = 32  # points of a tree's leaf
_ROUNDING = 1e-6  # relative; a distance that equals a tolerance but for it is within


@dataclass(frozen=True)
class SurfaceDistances:
    """From each surface voxel of one mask to the nearest one of the other, both ways; neither is empty.

    Attributes:
        of_mask_S: from the mask's surface to the reference's, mm.
        of_reference_S: from the reference's surface to the mask's, mm.
    """

    of_mask_S: NDArray[np.float64]
    of_reference_S: NDArray[np.float64]

    @property
    def greatest(self) -> float:
        """Maximum symmetric surface distance, the Hausdorff distance, mm."""
        return float(max(self.of_mask_S.max(), self.of_reference_S.max()))

    @property
    def mean(self) -> float:
        """Average symmetric surface distance, mm: over the voxels of both surfaces."""
        total = self.of_mask_S.sum() + self.of_reference_S.sum()
        return float(total / (self.of_mask_S.size + self.of_reference_S.size))

    def percentile(self, percent: float) -> float:
        """The larger of both directions' percentiles, mm (95: HD95)."""
        return float(max(np.percentile(self.of_mask_S, percent), np.percentile(self.of_reference_S, percent)))

    def share_within(self, tolerance: float) -> float:
        """Normalised surface distance: share of the voxels of both surfaces that lie within `tolerance` mm, 0 … 1."""
        limit = tolerance * (1 + _ROUNDING)
        near = np.count_nonzero(self.of_mask_S <= limit) + np.count_nonzero(self.of_reference_S <= limit)
        return float(near / (self.of_mask_S.size + self.of_reference_S.size))


def surface_distances(
    mask_zyx: Mask, reference_zyx: Mask, spacing_zyx: Steps, threads: int = 1, ignored_zyx: Mask | None = None
) -> SurfaceDistances | None:
    """Distances between the surfaces of two masks of one shape; None where a mask has none.

    Args:
        mask_zyx: bool.
        reference_zyx: bool.
        spacing_zyx: of their grid, mm.
        threads: how many may be used.
        ignored_zyx: voxels, outside of both masks, of which nothing is known; None: there are none.
    """
    ours_zyx, theirs_zyx = surface(mask_zyx, ignored_zyx), surface(reference_zyx, ignored_zyx)
    if not (ours_zyx.any() and theirs_zyx.any()):
        return None
    return SurfaceDistances(
        nearest(ours_zyx, theirs_zyx, spacing_zyx, threads), nearest(theirs_zyx, ours_zyx, spacing_zyx, threads)
    )


def surface(mask_zyx: Mask, ignored_zyx: Mask | None = None) -> Mask:
    """The voxels of a mask, bool, that have a neighbour outside, across one of the six faces.

    Ignored voxels are no such neighbours: where the mask may go on, no surface is known.
    """
    whole_zyx = mask_zyx if ignored_zyx is None else mask_zyx | ignored_zyx
    inside_zyx = whole_zyx.copy()
    for axis in range(mask_zyx.ndim):
        inside, whole = np.moveaxis(inside_zyx, axis, 0), np.moveaxis(whole_zyx, axis, 0)
        inside[1:] &= whole[:-1]
        inside[:-1] &= whole[1:]
        inside[:1] = inside[-1:] = False
    return mask_zyx & ~inside_zyx


def nearest(from_zyx: Mask, to_zyx: Mask, spacing_zyx: Steps, threads: int = 1) -> NDArray[np.float64]:
    """Distance of each voxel of `from_zyx` to the nearest one of `to_zyx`, mm, in the order of the array.

    Surfaces are thin, and a search tree finds their nearest voxels faster than a distance transform of the whole box;
    not so those of noise, as an untrained network gives it. A transform knows no sheared axes.
    """
    if not isinstance(spacing_zyx, tuple):
        return _searched(from_zyx, to_zyx, spacing_zyx, threads)
    if np.count_nonzero(from_zyx) + np.count_nonzero(to_zyx) > _DENSE * from_zyx.size:
        return _transformed(from_zyx, to_zyx, spacing_zyx, threads)
    return _searched(from_zyx, to_zyx, spacing_zyx, threads)


def _transformed(from_zyx: Mask, to_zyx: Mask, spacing_zyx: Spacing, threads: int) -> NDArray[np.float64]:
    squares_zyx = edt.edtsq(~np.ascontiguousarray(to_zyx), anisotropy=spacing_zyx, parallel=threads)
    distances_S: NDArray[np.float64] = np.sqrt(squares_zyx[from_zyx], dtype=np.float64)
    return distances_S


def _searched(from_zyx: Mask, to_zyx: Mask, spacing_zyx: Steps, threads: int) -> NDArray[np.float64]:
    voxels_S = np.flatnonzero(from_zyx)
    apart_S = ~to_zyx.ravel()[voxels_S]  # the others lie on both surfaces
    tree = KDTree(_points(np.flatnonzero(to_zyx), to_zyx, spacing_zyx), _LEAF, compact_nodes=False, balanced_tree=False)
    distances_S = np.zeros(len(voxels_S))
    distances_S[apart_S] = tree.query(_points(voxels_S[apart_S], to_zyx, spacing_zyx), workers=threads)[0]
    return distances_S


def _points(voxels_S: NDArray[np.intp], mask_zyx: Mask, spacing_zyx: Steps) -> NDArray[np.float64]:
    """Places (S, 3) of voxels given by their position in the flat array, mm."""
    index_S3 = np.stack(np.unravel_index(voxels_S, mask_zyx.shape), axis=1)
    places: NDArray[np.float64] = (
        index_S3 * np.asarray(spacing_zyx) if isinstance(spacing_zyx, tuple) else index_S3 @ spacing_zyx
    )
    return places


def voxel_mm3(spacing_zyx: Steps) -> float:
    """Volume of a voxel, mm³."""
    return math.prod(spacing_zyx) if isinstance(spacing_zyx, tuple) else float(abs(np.linalg.det(spacing_zyx)))


def common_box(mask_zyx: NDArray[np.uint8] | Mask, reference_zyx: NDArray[np.uint8] | Mask) -> Box:
    """The smallest box that holds all voxels other than 0 of both; an empty one where there are none.

    What is outside it changes no metric, so that it needs no margin.
    """
    return bounding_box(mask_zyx.shape, lambda planes: (mask_zyx[planes] | reference_zyx[planes]) != 0)
