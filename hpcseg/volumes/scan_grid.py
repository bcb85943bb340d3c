"""Where a scan's voxels are: the file's x, y, z turned into canonical z, y, x, and whether two grids are one.

Inside hpcseg a volume is z, y, x in canonical orientation: x to the right, y to the front, z up (RAS+).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.spec import Spacing
from hpcseg.volumes.boxes import Triple
from hpcseg.volumes.headers import SHEARED, Note, corners_apart, mm_per, shear

_SHARE_OFF = 0.01  # of the smallest voxel by which the corners of an image and of its label may differ
_MOST_OFF = 0.25  # the same, where rounding explains it


@dataclass(frozen=True, eq=False)
class ScanGrid:
    """Where a scan's voxels are.

    Attributes:
        affine: (4, 4) of the file: voxel x, y, z -> mm, whatever the file's unit is.
        file_shape: x, y, z as in the file.
        unit: of length in the file: "m", "mm", "µm"; "" where it does not say.
        rounding_mm: how far float32 may have moved a corner.
        notes: what else the header says that deserves a word.
    """

    affine: NDArray[np.float64]
    file_shape: Triple
    unit: str = "mm"
    rounding_mm: float = 0.0
    notes: tuple[Note, ...] = ()

    @cached_property
    def orientation(self) -> NDArray[np.int64]:
        """(3, 2): for each axis of the file the canonical axis (x 0, y 1, z 2) and the direction (1 or −1)."""
        ornt: NDArray[np.int64] = nib.io_orientation(self.affine).astype(np.int64)
        return ornt

    @property
    def shape_zyx(self) -> Triple:
        """Shape of the canonical array, voxels."""
        z, y, x = (self.file_shape[axis] for axis in self._file_axes[::-1])
        return z, y, x

    @property
    def spacing_zyx(self) -> Spacing:
        """Voxel size of the canonical array, mm."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        z, y, x = (float(sizes[axis]) for axis in self._file_axes[::-1])
        return z, y, x

    @property
    def steps_zyx(self) -> Spacing | NDArray[np.float64]:
        """Voxel size of the canonical array; where axes are sheared its steps along z, y, x, rows of (3, 3); mm."""
        if shear(self.affine) <= SHEARED:
            return self.spacing_zyx
        along = self.affine[:3, :3] * self.orientation[:, 1]
        steps: NDArray[np.float64] = along[:, list(self._file_axes[::-1])].T
        return steps

    @property
    def volume_share(self) -> float:
        """Volume of a voxel over the product of its edges: 1, or less where axes are sheared."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        is_sheared = shear(self.affine) > SHEARED
        return float(abs(np.linalg.det(self.affine[:3, :3] / sizes))) if is_sheared else 1.0

    @property
    def _file_axes(self) -> tuple[int, ...]:
        """The file's axis that is canonical x, y, z."""
        return tuple(int(axis) for axis in np.argsort(self.orientation[:, 0]))

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, int(direction)) for direction in self.orientation[:, 1])

    def to_canonical(self, array_xyz: NDArray[Any]) -> NDArray[Any]:
        """Turn a file's array into the canonical z, y, x one; a view, values untouched."""
        return array_xyz[self._flips].transpose(self._file_axes[::-1])

    def to_file(self, array_zyx: NDArray[Any]) -> NDArray[Any]:
        """Turn a canonical z, y, x array into the file's x, y, z; the inverse of `to_canonical`."""
        inverse = np.argsort(self._file_axes[::-1])
        return array_zyx.transpose(tuple(int(axis) for axis in inverse))[self._flips]


def require_same_grid(path: Path, label: ScanGrid, image: ScanGrid) -> None:
    """Check that a label's voxels are where its image's are.

    A label whose header has no unit of length has its image's.

    Raises:
        BadInput: another shape, or a corner further away than 1 % of the smallest voxel, or than rounding to float32
            explains, which is no more than a quarter of it.
    """
    if label.file_shape != image.file_shape:
        raise BadInput(
            f"{path}: label shape {label.file_shape} differs from its image's {image.file_shape}; resample it"
        )
    affine = label.affine if label.unit else np.diag([mm_per(image.unit)] * 3 + [1.0]) @ label.affine
    apart, smallest = corners_apart(affine, image.affine, image.file_shape), min(image.spacing_zyx)
    rounding = min(label.rounding_mm + image.rounding_mm, _MOST_OFF * smallest)
    if apart > max(_SHARE_OFF * smallest, rounding):
        raise BadInput(
            f"{path}: label lies up to {apart:.3g} mm off its image ({_difference(affine, label, image)}); "
            "resample it, or correct its header"
        )


def _difference(affine: NDArray[np.float64], label: ScanGrid, image: ScanGrid) -> str:
    """What is different in the affines of a label and of its image."""
    ours, theirs = affine[:3, :3], image.affine[:3, :3]
    sizes, others = (np.linalg.norm(axes, axis=0) for axes in (ours, theirs))
    said = [str(note) for note in label.notes if note.remark != "intent"]
    if not np.allclose(sizes, others, rtol=1e-3):
        shown = (" × ".join(f"{size:.3g}" for size in found) for found in (sizes, others))
        said.insert(0, "voxels of {} mm instead of {}, x, y, z as in the file".format(*shown))
    else:
        turned = float(np.degrees(np.arccos(np.clip((ours * theirs).sum(axis=0) / sizes / others, -1, 1))).max())
        shift = ", ".join(f"{value:.3g}" for value in affine[:3, 3] - image.affine[:3, 3])
        said.insert(0, f"its axes are turned by {turned:.2g}°" if turned > 0.01 else f"it is shifted by {shift} mm")
    return "; ".join(said)
