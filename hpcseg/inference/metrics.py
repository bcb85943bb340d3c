"""How well a mask agrees with its reference, class by class, on their own grid.

Masks are arrays of class indices, uint8 (Z, Y, X), 0 the background. Distances are in mm and between surfaces as
`surfaces` defines them, volumes in ml. What an empty mask leaves undefined is None: no value is made up for it, and
whoever averages has to count it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcseg.inference.surfaces import Mask, common_box, surface_distances
from hpcseg.spec import Spacing

Classes = NDArray[np.uint8]

_MM3_PER_ML = 1000


@dataclass(frozen=True)
class Agreement:
    """The metrics of one class.

    Where the class is in one of the masks only, `dsc` and `nsd` are 0 and the distances None; where it is in neither,
    these are all None.

    Attributes:
        dsc: Dice similarity coefficient, 2 |A ∩ B| / (|A| + |B|), 0 … 1 (paper 3.1.3).
        hd95: Hausdorff distance of the 95th percentile, the larger of both directions', mm.
        hd: Hausdorff distance, or maximum symmetric surface distance, mm.
        nsd: normalised surface distance, or surface Dice: share of both surfaces that lies within the tolerance, 0 … 1.
        asd: average symmetric surface distance, mm.
        volume_ml: of the mask.
        reference_ml: of the reference.
        volume_difference: of the mask from the reference, % of the reference; None where that is empty.
    """

    dsc: float | None
    hd95: float | None
    hd: float | None
    nsd: float | None
    asd: float | None
    volume_ml: float
    reference_ml: float
    volume_difference: float | None


def measure(
    mask_zyx: Classes,
    reference_zyx: Classes,
    class_count: int,
    spacing_zyx: Spacing,
    nsd_mm: float,
    threads: int = 1,
) -> tuple[Agreement, ...]:
    """Measure classes 1 … `class_count`.

    Args:
        mask_zyx: what was found.
        reference_zyx: what is true; of the same shape.
        class_count: without the background.
        spacing_zyx: of the grid, mm.
        nsd_mm: tolerance of the normalised surface distance.
        threads: how many may be used.

    Raises:
        ValueError: the shapes differ.
    """
    if mask_zyx.shape != reference_zyx.shape:
        raise ValueError(f"a mask of shape {mask_zyx.shape} cannot be compared with one of {reference_zyx.shape}")
    box = common_box(mask_zyx, reference_zyx)
    mask_zyx, reference_zyx = mask_zyx[box], reference_zyx[box]
    return tuple(
        _measure(mask_zyx == label, reference_zyx == label, spacing_zyx, nsd_mm, threads)
        for label in range(1, class_count + 1)
    )


def dice(mask: Classes, reference: Classes, label: int = 1) -> float | None:
    """Dice similarity coefficient of one class alone, on arrays of any shape; see `Agreement`."""
    return _dice(mask == label, reference == label)


def _measure(mask_zyx: Mask, reference_zyx: Mask, spacing_zyx: Spacing, nsd_mm: float, threads: int) -> Agreement:
    box = common_box(mask_zyx, reference_zyx)
    mask_zyx, reference_zyx = mask_zyx[box], reference_zyx[box]
    distances = surface_distances(mask_zyx, reference_zyx, spacing_zyx, threads)
    size, true_size = _count(mask_zyx), _count(reference_zyx)
    voxel_ml = math.prod(spacing_zyx) / _MM3_PER_ML
    apart = 0.0 if size or true_size else None  # nothing lies near where one is empty
    return Agreement(
        dsc=_dice(mask_zyx, reference_zyx),
        hd95=distances.percentile(95) if distances else None,
        hd=distances.greatest if distances else None,
        nsd=distances.share_within(nsd_mm) if distances else apart,
        asd=distances.mean if distances else None,
        volume_ml=size * voxel_ml,
        reference_ml=true_size * voxel_ml,
        volume_difference=100 * (size - true_size) / true_size if true_size else None,
    )


def _dice(mask: Mask, reference: Mask) -> float | None:
    total = _count(mask) + _count(reference)
    return None if total == 0 else 2 * _count(mask & reference) / total


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
