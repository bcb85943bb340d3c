"""What a NIfTI header says of a grid beyond its affine: unit of length, rounding, and what deserves a word.

Affines are (4, 4), voxel x, y, z -> mm; shapes are x, y, z.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

Affine = NDArray[np.float64]

SHEARED = 1e-3  # cosine between two axes from which on volumes and distances are not those of a right-angled voxel
_MM = {"m": 1000.0, "mm": 1.0, "µm": 0.001}
_UNITS = {0: "", 1: "m", 2: "mm", 3: "µm"}
_ROUNDING = 2.0**-24  # relative, of float32
_APART = 0.1  # share of a voxel from which on two affines of one header are two grids


@dataclass(frozen=True)
class Note:
    """What a header says and a user should know.

    Attributes:
        remark: the word that marks the scan in a table.
        what: the same for all scans of which it is said.
        detail: of this scan.
    """

    remark: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.detail})" if self.detail else self.what


def unit_of(header: Any) -> str:
    """Unit of length: "m", "mm" or "µm"; "" where the header does not say, or says what has no meaning."""
    return _UNITS.get(int(header["xyzt_units"]) & 7, "")


def mm_per(unit: str) -> float:
    """Millimetres of a unit of length; one that is not known is mm."""
    return _MM.get(unit, 1.0)


def shear(affine: Affine) -> float:
    """Largest cosine between two of the grid's axes; 0: all are at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(np.triu(axes.T @ axes, 1)).max())


def corners_apart(one: Affine, other: Affine, shape: Sequence[int]) -> float:
    """How far apart two affines put the corner voxels of one shape, along any axis, mm."""
    far = np.array(shape) - 1
    corners = np.array([[*(far * bits), 1] for bits in np.ndindex(2, 2, 2)], dtype=float)
    return float(np.abs(corners @ (one - other).T).max())


def rounding_mm(header: Any, affine: Affine, shape: Sequence[int]) -> float:
    """How far float32 may have moved a corner voxel, mm.

    The elements of an sform are rounded by themselves. A qform leaves out the first of the quaternion's numbers, which
    is the less exact, the smaller it is, and taken for 0 below 0.0006: near half a turn, as from RAS to LPS, a rotation
    is off by up to 0.0014.
    """
    reach = np.abs(affine[:3, :3]) @ (np.array(shape) - 1) + np.abs(affine[:3, 3])
    rounded = 2 * _ROUNDING * float(reach.max())
    if int(header["sform_code"]) or not int(header["qform_code"]):
        return rounded
    squares = sum(float(header[f"quatern_{name}"]) ** 2 for name in "bcd")
    first, error = max(1 - squares, 0.0) ** 0.5, 8 * _ROUNDING
    angle = 2 * (min(error**0.5, error / (2 * first) if first else 1.0) + 2 * _ROUNDING)
    extent = float(np.linalg.norm(affine[:3, :3] @ (np.array(shape) - 1)))
    return float(rounded + angle * extent)


def notes_of(header: Any, affine: Affine, shape: Sequence[int]) -> tuple[Note, ...]:
    """Everything of a header that a user should know.

    Args:
        header: of NIfTI-1 or -2.
        affine: that counts.
        shape: x, y, z.
    """
    return (*_unit_notes(header), *_form_notes(header, affine, shape), *_axes_notes(affine), *_intent_notes(header))


def _unit_notes(header: Any) -> Iterator[Note]:
    code, unit = int(header["xyzt_units"]) & 7, unit_of(header)
    if code and not unit:
        yield Note("units", "the header's unit of length has no meaning; taken for mm", f"code {code}")
    elif unit not in ("", "mm"):
        yield Note("units", "lengths are not in mm in the header; they are turned into mm", unit)


def _form_notes(header: Any, affine: Affine, shape: Sequence[int]) -> Iterator[Note]:
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        yield Note("orientation", "the header has neither sform nor qform: left and right are a guess")
    if not int(header["sform_code"]):
        return
    sizes, pixdim = (
        np.linalg.norm(affine[:3, :3], axis=0),
        header["pixdim"][1:4].astype(float) * mm_per(unit_of(header)),
    )
    if int(header["qform_code"]):
        try:
            other = np.array(header.get_qform(), dtype=float)
        except (ValueError, HeaderDataError, ImageFileError):
            yield Note("two grids", "the qform is no rotation; the sform counts")
            return
        other[:3] *= mm_per(unit_of(header))
        apart = corners_apart(affine, other, shape)
        if apart > max(_APART * sizes.min(), 2 * rounding_mm({**_codes(header), "sform_code": 0}, other, shape)):
            yield Note("two grids", "sform and qform disagree; the sform counts", f"by up to {apart:.3g} mm")
    elif not np.allclose(sizes, pixdim, rtol=1e-3):
        said = " × ".join(f"{size:.3g}" for size in pixdim[::-1])
        yield Note("two grids", "spacing of pixdim and of the sform disagree; the sform counts", f"pixdim {said} mm")


def _codes(header: Any) -> dict[str, Any]:
    return {name: header[name] for name in ("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d")}


def _axes_notes(affine: Affine) -> Iterator[Note]:
    cosine = shear(affine)
    if cosine > SHEARED:
        yield Note(
            "sheared",
            "axes are not at right angles (gantry tilt?); volumes and distances follow the affine, networks see right "
            "angles",
            f"{np.degrees(np.arcsin(min(cosine, 1.0))):.3g}°",
        )


def _intent_notes(header: Any) -> Iterator[Note]:
    code = int(header["intent_code"])
    if code:
        try:
            name = str(header.get_intent()[0])
        except (KeyError, ValueError, HeaderDataError):
            name = "unknown"
        yield Note("intent", "the header says that the values are no plain intensities", f"intent {code}, {name}")
