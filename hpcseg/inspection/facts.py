"""What is measured of one scan and its label when a dataset is inspected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hpcseg.inspection.fingerprints import content_digest, sample
from hpcseg.spec import Spacing
from hpcseg.volumes.headers import Note
from hpcseg.volumes.scan_grid import ScanGrid

Percentiles = tuple[float, float, float]

PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLE = 1 << 20  # voxels that stand for all of a larger scan in its percentiles


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What was measured of one scan and its label.

    Attributes:
        name: of the case.
        part: "training" or "test".
        shape_zyx, spacing_zyx: canonical; voxels and mm.
        orientation: of the file's axes, such as "LPS".
        oblique_deg: largest angle between an axis of the file and the patient's.
        dtype: on disk.
        low, high, percentiles: intensities: minimum, maximum, and at 0.5, 50 and 99.5 %.
        at_maximum: share of the voxels that have the maximum.
        labels: label value -> voxels, 0 included; None without a label.
        under_label: the percentiles of the voxels under all labels but 0 and the ignored one, if there are any.
        label_at_edge: whether such a label touches a face of the volume.
        label_digest: of the label's voxels.
        volume_share: volume of a voxel over the product of its edges; less than 1 where axes are sheared.
        notes: what the header says that deserves a word.
    """

    name: str
    part: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx: Spacing
    orientation: str
    oblique_deg: float
    dtype: str
    low: float
    high: float
    percentiles: Percentiles
    at_maximum: float
    labels: Mapping[int, int] | None = None
    under_label: Percentiles | None = None
    label_at_edge: bool = False
    label_digest: str = ""
    volume_share: float = 1.0
    notes: tuple[Note, ...] = ()

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, ml."""
        return float(np.prod(self.spacing_zyx)) / 1000 * self.volume_share

    def voxels(self, value: int) -> int:
        """How many voxels of a label there are; 0 without a label."""
        return (self.labels or {}).get(value, 0)

    def to_json(self) -> dict[str, Any]:
        """The facts for JSON; label volumes in ml."""
        entry: dict[str, Any] = {
            "case": self.name,
            "shape_zyx": list(self.shape_zyx),
            "spacing_zyx": list(self.spacing_zyx),
            "orientation": self.orientation,
            "oblique_deg": self.oblique_deg,
            "dtype": self.dtype,
            "header_notes": [str(note) for note in self.notes],
            "intensity_min": self.low,
            "intensity_max": self.high,
            "intensity_percentiles": _by_percentile(self.percentiles),
            "labels": None,
        }
        if self.labels is not None:
            entry["labels"] = {str(value): count for value, count in self.labels.items()}
            entry["label_ml"] = {str(v): _rounded(count * self.voxel_ml) for v, count in self.labels.items() if v}
            entry["label_intensities"] = None if self.under_label is None else _by_percentile(self.under_label)
            entry["label_at_edge"] = self.label_at_edge
        return entry


def _rounded(ml: float) -> float:
    """Four decimals, or of less than that four digits: what is there is never nothing."""
    return round(ml, 4) or float(f"{ml:.4g}")


def measure(
    name: str,
    part: str,
    volume_zyx: NDArray[np.float32],
    label_zyx: NDArray[np.uint8] | None,
    grid: ScanGrid,
    dtype: str,
    ignore: int | None = None,
) -> CaseFacts:
    """Measure a scan in canonical orientation; in more than a million voxels, percentiles are those of a sample.

    Args:
        name, part, dtype: as in `CaseFacts`.
        volume_zyx, label_zyx: intensities, and label values or None.
        grid: of the scan.
        ignore: label value of voxels that are left out of everything.
    """
    some = sample(volume_zyx, _SAMPLE)
    high = float(volume_zyx.max())
    z, y, x = (round(size, 6) for size in grid.spacing_zyx)
    facts = CaseFacts(
        name=name,
        part=part,
        shape_zyx=grid.shape_zyx,
        spacing_zyx=(z, y, x),
        orientation="".join(nib.aff2axcodes(grid.affine)),
        oblique_deg=round(float(np.degrees(nib.affines.obliquity(grid.affine)).max()), 3),
        dtype=dtype,
        low=float(volume_zyx.min()),
        high=high,
        percentiles=_percentiles(some),
        at_maximum=np.count_nonzero(some == high) / some.size,
        volume_share=grid.volume_share,
        notes=grid.notes,
    )
    if label_zyx is None:
        return facts
    counts = np.sum([np.bincount(plane.ravel(), minlength=256) for plane in label_zyx], axis=0)
    under = volume_zyx[_counts(label_zyx, ignore)]
    faces = (np.moveaxis(label_zyx, axis, 0)[side] for axis in range(3) for side in (0, -1))
    return replace(
        facts,
        labels={int(value): int(counts[value]) for value in np.flatnonzero(counts)},
        under_label=_percentiles(sample(under, _SAMPLE)) if under.size else None,
        label_at_edge=any(_counts(face, ignore).any() for face in faces),
        label_digest=content_digest(label_zyx),
    )


def _counts(label_zyx: NDArray[np.uint8], ignore: int | None) -> NDArray[np.bool_]:
    """Which voxels have a label of the foreground."""
    found: NDArray[np.bool_] = label_zyx > 0
    return found if ignore is None else found & (label_zyx != ignore)


def _percentiles(values: NDArray[np.float32]) -> Percentiles:
    low, middle, high = np.percentile(values, PERCENTILES).tolist()
    return low, middle, high


def _by_percentile(values: Percentiles) -> dict[str, float]:
    return {f"{percent:g}": value for percent, value in zip(PERCENTILES, values, strict=True)}
