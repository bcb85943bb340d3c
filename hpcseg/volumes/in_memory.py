"""Scans that are in memory as files: images of nibabel, and arrays whose axes are x, y, z as nibabel has them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike

from hpcseg.errors import BadInput


@contextlib.contextmanager
def as_file(scan: Any, affine: ArrayLike | None = None) -> Iterator[Path]:
    """A scan that may be in memory as a file, which is gone afterwards.

    Args:
        scan: a path; a nibabel image; or an array whose axes are those of `affine`, as nibabel has them: x, y, z.
        affine: (4, 4) of an array: voxel -> mm.

    Raises:
        BadInput: an array without an affine, or with one that gives its voxels no place; what has an affine of its own,
            and is given another; or what is no scan at all. What is raised meanwhile names the scan, and no file.
    """
    is_path = isinstance(scan, str | os.PathLike)
    if affine is not None and (is_path or isinstance(scan, nib.spatialimages.SpatialImage)):
        raise BadInput(f"affine: {scan if is_path else 'the image'} has one of its own; leave affine out")
    if is_path:
        yield Path(scan)
        return
    is_image = isinstance(scan, nib.spatialimages.SpatialImage)
    name, image = ("the image", _as_it_is(scan)) if is_image else ("the array", _image_of(scan, affine))
    with tempfile.TemporaryDirectory(prefix="hpcseg-") as folder:
        nib.save(image, path := Path(folder) / "scan.nii")
        try:
            yield path
        except BadInput as error:
            raise type(error)(str(error).replace(str(path), name)) from None


def _as_it_is(scan: nib.spatialimages.SpatialImage) -> nib.spatialimages.SpatialImage:
    """The image with the type of its values, in which it is written: in its header's they would be rounded."""
    values = np.asanyarray(scan.dataobj)
    if values.dtype.kind not in "iuf":
        return scan
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is infinite then is refused where it is read
            values = values.astype(np.float32, copy=False)
    kind = type(scan) if isinstance(scan, nib.Nifti1Image) else nib.Nifti1Image
    kept = kind(values, scan.affine, scan.header)
    kept.set_data_dtype(values.dtype)
    return kept


def _image_of(array: Any, affine: ArrayLike | None) -> nib.Nifti1Image:
    """An array with its affine, as `as_file` takes them."""
    if affine is None or np.ndim(array) < 3:
        what = f"an object of type {type(array).__name__}" if np.ndim(array) < 3 else "an array"
        raise BadInput(f"{what}: give a path, a nibabel image, or a 3-D array with its affine, 4 × 4, voxel to mm")
    values = np.asarray(array)
    if values.dtype.kind not in "biuf":
        raise BadInput(f"the array: voxels of type {values.dtype} are not plain intensities; convert it to numbers")
    try:
        matrix = np.asarray(affine, float)
        is_sound = matrix.shape == (4, 4) and np.isfinite(matrix).all() and (matrix[3] == (0, 0, 0, 1)).all()
        is_sound = is_sound and np.linalg.det(matrix) != 0
    except (TypeError, ValueError):  # texts, rows of different lengths
        is_sound = False
    if not is_sound:
        raise BadInput(
            "affine: places no voxels; give 4 × 4 finite numbers, voxel to mm, whose axes do not lie in one plane and "
            "whose last row is 0 0 0 1"
        )
    plain = values.dtype.kind in "iuf" and values.dtype not in {np.dtype(kind) for kind in ("i8", "u8", "f2")}
    return nib.Nifti1Image(values if plain else values.astype(np.float32), matrix)
