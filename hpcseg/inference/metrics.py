"""The metrics of a mask against its reference, class by class, on their own grid: the one list of them.

Who measures, the command line, sweep files, tables and figures all read `METRICS`; a metric is added here alone.
Masks are arrays of class indices, uint8 (Z, Y, X), 0 the background. Distances are in mm and between surfaces as
`surfaces` defines them, volumes in ml. What an empty mask leaves undefined is None: no value is made up for it, and
whoever averages has to count it. Where a class is in one of the masks only, DSC and NSD are 0 and the distances None;
where it is in neither, these are all None. Voxels whose reference is `IGNORED` belong to no mask, and where one ends at
them there is no surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line lists the metrics, and measures nothing
    import numpy as np
    from numpy.typing import NDArray

    from hpcseg.inference.surfaces import Mask, Steps, SurfaceDistances

    Classes = NDArray[np.uint8]

_MM3_PER_ML = 1000


@dataclass(frozen=True)
class MaskPair:
    """One class of a mask and of its reference, as the metrics see them; no `distances` where one has no surface."""

    voxels: int
    reference_voxels: int
    shared_voxels: int
    voxel_ml: float
    distances: SurfaceDistances | None
    nsd_mm: float


@dataclass(frozen=True)
class Metric:
    """A key of result.json.

    Attributes:
        label: as it is printed.
        compute: its value; None where it is undefined.
        unit: "" for a share, 0 … 1.
        better: "zero": the smaller in size, whichever sign; "": neither way.
        decimals: as printed; three for shares, as the paper.
        lowest, highest: that it can be; None: no limit.
    """

    key: str
    label: str
    compute: Callable[[MaskPair], float | None]
    unit: str = ""
    better: Literal["higher", "lower", "zero", ""] = "higher"
    decimals: int = 3
    lowest: float = 0.0
    highest: float | None = None

    @property
    def name(self) -> str:
        """Label with unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def compared(self) -> str:
        """What contrasts are differences of."""
        return f"size of the {self.label}" if self.better == "zero" else self.label

    def comparable(self, value: float) -> float:
        """A value as contrasts take it."""
        return abs(value) if self.better == "zero" else value

    def improves(self, difference: float) -> bool:
        """Whether a difference from the baseline is an improvement; rounding errors are none."""
        return difference > 1e-9 if self.better == "higher" else bool(self.better) and difference < -1e-9

    @property
    def direction(self) -> str:
        """How to read a difference's sign."""
        words = {"higher": "more is better", "lower": "less is better", "zero": "nearer to zero is better"}
        return words.get(self.better, "neither way is better")


def _dsc(pair: MaskPair) -> float | None:
    """Dice similarity coefficient, 2 |A ∩ B| / (|A| + |B|) (paper 3.1.3)."""
    return _dice(pair.voxels, pair.reference_voxels, pair.shared_voxels)


def _dice(voxels: int, reference_voxels: int, shared_voxels: int) -> float | None:
    total = voxels + reference_voxels
    return 2 * shared_voxels / total if total else None


def _hd95(pair: MaskPair) -> float | None:
    """Hausdorff distance of the 95th percentile, the larger of both directions'."""
    return pair.distances.percentile(95) if pair.distances else None


def _hd(pair: MaskPair) -> float | None:
    """Hausdorff distance, or maximum symmetric surface distance."""
    return pair.distances.greatest if pair.distances else None


def _nsd(pair: MaskPair) -> float | None:
    """Normalised surface distance, or surface Dice: share of both surfaces that lies within the tolerance."""
    if pair.distances:
        return pair.distances.share_within(pair.nsd_mm)
    if pair.voxels and pair.reference_voxels:
        return None  # all of a surface is ignored
    return 0.0 if pair.voxels or pair.reference_voxels else None  # nothing lies near where one is empty


def _asd(pair: MaskPair) -> float | None:
    """Average symmetric surface distance."""
    return pair.distances.mean if pair.distances else None


def _volume_difference(pair: MaskPair) -> float | None:
    """Of the mask from the reference, in per cent of the reference; None where that is empty."""
    if not pair.reference_voxels:
        return None
    return 100 * (pair.voxels - pair.reference_voxels) / pair.reference_voxels


DSC = Metric("dsc", "DSC", _dsc, highest=1)
METRICS = {
    metric.key: metric
    for metric in (
        DSC,
        Metric("hd95", "HD95", _hd95, "mm", "lower", 2),
        Metric("hd", "maximum HD", _hd, "mm", "lower", 1),
        Metric("nsd", "NSD", _nsd, highest=1),
        Metric("asd", "ASD", _asd, "mm", "lower", 2),
        Metric("volume_ml", "volume", lambda pair: pair.voxels * pair.voxel_ml, "ml", "", 1),
        Metric("reference_ml", "reference volume", lambda pair: pair.reference_voxels * pair.voxel_ml, "ml", "", 1),
        Metric("volume_difference", "volume difference", _volume_difference, "%", "zero", 1, lowest=-100),
    )
}


def measure(
    mask_zyx: Classes,
    reference_zyx: Classes,
    class_count: int,
    spacing_zyx: Steps,
    nsd_mm: float,
    threads: int = 1,
) -> tuple[dict[str, float | None], ...]:
    """Every metric of classes 1 … `class_count`, by its key.

    Args:
        mask_zyx: what was found.
        reference_zyx: what is true; of the same shape; `IGNORED` where that is not known.
        class_count: without the background.
        spacing_zyx: of the grid, mm; see `surfaces.Steps`.
        nsd_mm: tolerance of the normalised surface distance.
        threads: how many may be used.

    Raises:
        ValueError: the shapes differ.
    """
    from hpcseg.inference.surfaces import common_box
    from hpcseg.spec import IGNORED

    if mask_zyx.shape != reference_zyx.shape:
        raise ValueError(f"a mask of shape {mask_zyx.shape} cannot be compared with one of {reference_zyx.shape}")
    box = common_box(mask_zyx, reference_zyx)
    mask_zyx, reference_zyx = mask_zyx[box], reference_zyx[box]
    ignored_zyx: Mask | None = reference_zyx == IGNORED
    if ignored_zyx is not None and ignored_zyx.any():
        mask_zyx, reference_zyx = mask_zyx.copy(), reference_zyx.copy()
        mask_zyx[ignored_zyx] = reference_zyx[ignored_zyx] = 0
    else:
        ignored_zyx = None
    pairs = (
        _pair(mask_zyx == label, reference_zyx == label, ignored_zyx, spacing_zyx, nsd_mm, threads)
        for label in range(1, class_count + 1)
    )
    return tuple({key: metric.compute(pair) for key, metric in METRICS.items()} for pair in pairs)


def dsc_of_classes(mask_zyx: Classes, reference_zyx: Classes, class_count: int) -> list[float | None]:
    """DSC of classes 1 … `class_count` as in `measure`, without the time that surfaces take."""
    from hpcseg.spec import IGNORED

    known, found = reference_zyx != IGNORED, []
    for label in range(1, class_count + 1):
        mine, true = (mask_zyx == label) & known, reference_zyx == label
        found.append(_dice(int(mine.sum()), int(true.sum()), int((mine & true).sum())))
    return found


def _pair(
    mask_zyx: Mask, reference_zyx: Mask, ignored_zyx: Mask | None, spacing_zyx: Steps, nsd_mm: float, threads: int
) -> MaskPair:
    import numpy as np

    from hpcseg.inference.surfaces import common_box, surface_distances, voxel_mm3

    if ignored_zyx is None:  # else what lies beyond the box counts
        box = common_box(mask_zyx, reference_zyx)
        mask_zyx, reference_zyx = mask_zyx[box], reference_zyx[box]
    voxels, reference_voxels, shared_voxels = (
        int(np.count_nonzero(one)) for one in (mask_zyx, reference_zyx, mask_zyx & reference_zyx)
    )
    return MaskPair(
        voxels,
        reference_voxels,
        shared_voxels,
        voxel_ml=voxel_mm3(spacing_zyx) / _MM3_PER_ML,
        distances=surface_distances(mask_zyx, reference_zyx, spacing_zyx, threads, ignored_zyx),
        nsd_mm=nsd_mm,
    )
