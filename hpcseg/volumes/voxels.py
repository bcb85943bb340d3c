"""A scan's voxels: streamed from the file, kept in memory as small as they are stored.

Arrays in memory are z, y, x; a file's voxels come in its own order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from hpcseg.volumes.scratch import slabs

_LARGEST_INFLATION = 1032  # bytes that one byte of a gzip file can stand for


@dataclass(frozen=True, eq=False)
class Intensities:
    """A scan's voxels in memory, in few bytes; turned into intensities (float32) when they are asked for.

    Attributes:
        stored_zyx: canonical; the file's integers of at most 16 bits, or else float32.
        slope, inter: intensity = stored · slope + inter.
    """

    stored_zyx: NDArray[Any]
    slope: float = 1.0
    inter: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """z, y, x."""
        return self.stored_zyx.shape

    def __getitem__(self, box: slice | tuple[slice, ...]) -> NDArray[np.float32]:
        """Intensities of a part; not to be written to."""
        with np.errstate(over="ignore"):  # to infinity, which `scans` refuses
            return scaled(self.stored_zyx[box], self.slope, self.inter).astype(np.float32, copy=False)

    def crop(self, box: tuple[slice, ...]) -> Intensities:
        """Return a part, of the same memory."""
        return Intensities(self.stored_zyx[box], self.slope, self.inter)

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Least and largest intensity; NaN if there is one."""
        ends = Intensities(np.array([self.stored_zyx.min(), self.stored_zyx.max()]), self.slope, self.inter)[:]
        return float(ends.min()), float(ends.max())


def require_room(path: Path, image: Any) -> None:
    """Compare the size of a file with that of the voxels that its header promises, before anything is made for them.

    Raises:
        EOFError: the file cannot hold so many voxels.
    """
    proxy, count = image.dataobj, math.prod(image.shape)
    inflation = _LARGEST_INFLATION if path.name.endswith(".gz") else 1
    if proxy.offset + count * proxy.dtype.itemsize > path.stat().st_size * inflation:
        raise EOFError(f"the file is too small for {count} voxels")


def stored_voxels(path: Path, image: Any, stream: BufferedIOBase) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The voxels as they are stored, (x, y, n): a few planes of the file's last axis at a time, in order.

    Args:
        path: of the file, .nii or .nii.gz.
        image: nibabel's, which knows shape, type and place of the voxels.
        stream: where to read them.

    Raises:
        EOFError: the file cannot hold so many voxels (at once).
        ValueError: it ends before the last one (on the way).
    """
    require_room(path, image)
    proxy, shape = image.dataobj, image.shape[:3]
    raw = ArrayProxy(stream, (shape, proxy.dtype, proxy.offset), mmap=False)  # in the file's units
    return ((planes, raw[..., planes]) for planes in slabs(shape[::-1]))


def scaled(stored: NDArray[Any], slope: float, inter: float) -> NDArray[Any]:
    """Apply a header's slope and intercept as nibabel does, in float64; nothing is copied where they are 1 and 0."""
    values: NDArray[Any] = apply_read_scaling(stored, np.float64(slope), np.float64(inter))
    return values
