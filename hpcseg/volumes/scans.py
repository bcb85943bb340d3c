"""NIfTI scans in and out. Beside `headers`, `scan_grid` and `in_memory` nobody knows the order x, y, z.

Inside hpcseg a volume is z, y, x (`volume_zyx`) in canonical orientation: x to the right, y to the front, z up (RAS+).
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import threading
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.files import is_file, replacing
from hpcseg.text import counted
from hpcseg.volumes import scratch
from hpcseg.volumes.headers import mm_per, notes_of, rounding_mm, unit_of
from hpcseg.volumes.layouts import ENDINGS
from hpcseg.volumes.scan_grid import ScanGrid, require_same_grid
from hpcseg.volumes.voxels import Intensities, require_room, scaled, stored_voxels

_WHOLE_OFF = 1e-3  # from a whole number, of label values
_STEP_OFF = 0.01  # the same of integers that a slope stands between, of which half a step is rounding
_FLATNESS = 1e-3  # volume of a voxel's unit axes below which an affine counts as singular
_LARGEST = 1e36  # intensity; sums of larger ones may overflow float32
WHOLE = 65535  # of the unsigned integers that stand for shares of 1
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
_READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,  # of a file that is shorter than a header
)


def read_grid(path: Path) -> ScanGrid:
    """Read where a scan's voxels are, from its header alone.

    Raises:
        BadInput: missing, not NIfTI, not 3-D, or with a zero, negative or singular spacing.
    """
    with _scan(path) as (image, _):
        return _grid(path, image)


def read_scan(path: Path) -> tuple[Intensities, ScanGrid]:
    """Read a scan as it is stored, and its grid.

    Raises:
        BadInput: as `read_grid`; or truncated, corrupt, or with voxels that are no number or beyond 1e36.
    """
    with _scan(path) as (image, stream):
        grid, proxy = _grid(path, image), image.dataobj
        compact = proxy.dtype.kind in "iu" and proxy.dtype.itemsize <= 2
        parts = stored_voxels(path, image, stream)
        kind = proxy.dtype.newbyteorder("=") if compact else np.float32
        stored = scratch.empty(grid.file_shape[::-1], kind).T  # x fastest, as in the file
        for planes, values in parts:
            stored[..., planes] = values if compact else Intensities(values, proxy.slope, proxy.inter)[:]
        scratch.release(stored)
    canonical = grid.to_canonical(stored)
    volume = Intensities(canonical, proxy.slope, proxy.inter) if compact else Intensities(canonical)
    if not np.isfinite(volume.extent).all():
        count = sum(int(np.count_nonzero(~np.isfinite(volume[planes]))) for planes in scratch.slabs(volume.shape))
        raise BadInput(f"{path}: {counted(count, 'voxel')} NaN or infinite; replace them in the scan")
    if max(np.abs(volume.extent)) > _LARGEST:
        low, high = volume.extent
        raise BadInput(
            f"{path}: intensities run from {low:.3g} to {high:.3g}, too large to compute with; rescale the scan"
        )
    return volume, grid


def read_image(path: Path) -> tuple[NDArray[np.float32], ScanGrid]:
    """Read a scan: float32 `volume_zyx` (canonical, header's slope and intercept applied) and its grid.

    The volume may be a view of an array in the file's order.

    Raises:
        BadInput: as `read_scan`.
    """
    volume, grid = read_scan(path)
    return volume[:], grid


def read_label(path: Path, grid: ScanGrid) -> NDArray[np.uint8]:
    """Read a label that lies on `grid`: uint8 `label_zyx` (canonical), the file's values.

    Raises:
        BadInput: as `read_image`; or on another grid, or with values that are no integers of 0 ... 255.
    """
    with _scan(path) as (image, stream):
        require_same_grid(path, _grid(path, image), grid)
        proxy = image.dataobj
        parts = stored_voxels(path, image, stream)
        label = np.empty(grid.file_shape, dtype=np.uint8, order="F")
        lows, highs, odd = [], [], None
        within = _WHOLE_OFF
        if (proxy.slope, proxy.inter) != (1, 0) and proxy.dtype.kind in "iu":
            within += min(abs(proxy.slope) / 2, _STEP_OFF)
        with np.errstate(invalid="ignore", over="ignore"):  # what uint8 cannot hold is refused below
            for planes, stored in parts:
                values = scaled(stored, proxy.slope, proxy.inter)
                nearest = values if values.dtype.kind in "iu" else np.rint(values)
                lows.append(nearest.min())
                highs.append(nearest.max())
                label[..., planes] = nearest
                if odd is None and nearest is not values and not (near := np.abs(values - nearest) <= within).all():
                    odd = float(values[~near][0])
    low, high = np.min(lows), np.max(highs)
    if not (low >= 0 and high <= 255):
        raise BadInput(f"{path}: label values run from {low} to {high}; labels must be whole numbers of 0 to 255")
    if odd is not None:
        scale = f"scl_slope {proxy.slope:.6g} and scl_inter {proxy.inter:.6g} of the header"
        cause = f"by {scale}; correct them" if (proxy.slope, proxy.inter) != (1, 0) else "as after interpolation"
        raise BadInput(
            f"{path}: label values are not whole numbers ({odd:.6g}, {cause}); give a label that was not interpolated"
        )
    return np.ascontiguousarray(grid.to_canonical(label))


def write_mask(path: Path, mask_zyx: NDArray[np.uint8], *, like: Path) -> None:
    """Write a mask (canonical, uint8) as NIfTI on the scan's own grid, atomically.

    Args:
        path: ends with .nii.gz or .nii.
        mask_zyx: of the scan's canonical shape.
        like: the scan, whose header (orientation codes, units, description) is kept.
    """
    _write(path, mask_zyx.astype(np.uint8, copy=False), 1.0, like)


def write_shares(path: Path, shares_zyx: NDArray[np.uint16], *, like: Path) -> None:
    """Write shares of `WHOLE` (probabilities), as `write_mask` does; readers scale them to 0 ... 1 by the header."""
    _write(path, shares_zyx, 1 / WHOLE, like)


def _write(path: Path, values_zyx: NDArray[Any], slope: float, like: Path) -> None:
    """Write integers as they are, with the slope that turns them into what they stand for."""
    if not path.name.endswith(ENDINGS):
        raise BadInput(f"{path}: masks are written as NIfTI; give a name that ends with .nii.gz")
    with _scan(like) as (scan, _):
        grid, header = _grid(like, scan), scan.header.copy()
    values = scratch.empty(grid.file_shape[::-1], values_zyx.dtype).T  # x fastest, as in the file
    values[...] = grid.to_file(values_zyx)
    header.set_data_dtype(values.dtype)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none", (), "")  # what the scan's values stand for
    image = type(scan)(values, None, header)
    image.header.set_slope_inter(slope, 0)
    with replacing(path) as temporary:
        nib.save(image, temporary)


def _no_file(path: Path) -> str:
    """What is there instead of a file; whatever the name."""
    if os.path.isdir(path):  # noqa: PTH112
        return "is a folder, and no scan"
    return "a link to a file that is not there" if os.path.islink(path) else "no such scan"  # noqa: PTH114


@contextlib.contextmanager
def _scan(path: Path) -> Iterator[tuple[Any, BufferedIOBase]]:
    """Open a NIfTI-1 or -2 file, as image and stream; turn every way in which reading can fail into BadInput.

    A gzip stream is read to its end if its voxels were read, so that its checksum is compared.
    """
    if not is_file(path):
        raise BadInput(f"{path}: {_no_file(path)}; correct the path")
    if not path.name.endswith(ENDINGS):
        raise BadInput(f"{path}: not a .nii.gz or .nii file; convert it to NIfTI")
    try:
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(path.open("rb"))
            stream = stack.enter_context(gzip.GzipFile(fileobj=plain)) if path.name.endswith(".gz") else plain
            kind = _checked_kind(path, stream.read(_HEADER_BYTES))
            stream.seek(0)
            with _silent():
                image: Any = kind.from_stream(stream)
            yield image, stream
            if isinstance(stream, gzip.GzipFile) and stream.tell() > image.dataobj.offset:
                while stream.read(1 << 20):
                    pass
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path}: not a readable NIfTI scan ({reason}); {_remedy(path)}") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without nibabel's own lines on headers in this thread: errors and notes say what there is to say."""
    own = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != own

    nib.imageglobals.logger.addFilter(of_others)
    try:
        yield
    finally:
        nib.imageglobals.logger.removeFilter(of_others)


def _remedy(path: Path) -> str:
    """What to do about a scan that cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start, is_named_packed = file.read(4), path.name.endswith(".gz")
        if start.startswith(b"\x1f\x8b") and not is_named_packed:
            return "it is compressed: name it .nii.gz"
        if is_named_packed and _kinds(start):
            return "it is not compressed: name it .nii"
    return "copy or convert it again"


def _checked_kind(path: Path, start: bytes) -> Any:
    """Class of the image, NIfTI-1 or -2; refuse voxel sizes of the raw header that nibabel would silently repair."""
    kinds = _kinds(start)
    if not kinds:
        raise ValueError("no NIfTI header")
    header = kinds[0].header_class(start[: kinds[0].header_class.sizeof_hdr], check=False)
    sizes = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise BadInput(f"{path}: voxel spacing {sizes.tolist()} mm must be positive; correct the header (pixdim)")
    return kinds[0]


def _grid(path: Path, image: Any) -> ScanGrid:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise BadInput(f"{path}: shape {shape} is not 3-D; give one volume per file")
    if min(shape) < 1:
        raise BadInput(f"{path}: shape {shape} holds no voxels; copy or convert it again")
    kind = image.get_data_dtype()
    if kind.names is not None or kind.kind not in "iuf":
        raise BadInput(f"{path}: voxels of type {kind} are not plain intensities; convert it to numbers")
    require_room(path, image)
    affine, unit = np.array(image.affine, dtype=np.float64), unit_of(image.header)
    affine[:3] *= mm_per(unit)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (sizes > 0).all()):
        raise BadInput(f"{path}: the affine gives no voxel spacing; correct the header")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < _FLATNESS:
        raise BadInput(f"{path}: the affine is singular (axes lie in one plane); correct the header")
    x, y, z = shape
    return ScanGrid(
        affine=affine,
        file_shape=(x, y, z),
        unit=unit,
        rounding_mm=rounding_mm(image.header, affine, shape),
        notes=notes_of(image.header, affine, shape),
    )


def _kinds(start: bytes) -> list[Any]:
    """Classes of images whose header begins so."""
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    return [kind for kind in (nib.Nifti1Image, nib.Nifti2Image) if kind.header_class.sizeof_hdr in sizes]
