"""Volumes larger than the memory: worked through part by part, and kept in temporary files that go with them."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcseg.host import in_memory

LARGEST = 1 << 30  # bytes of an array that is kept in memory
SLAB = 1 << 20  # voxels of a part


def slabs(shape: Sequence[int], voxels: int = SLAB) -> Iterator[slice]:
    """Slices of the first axis, in order, each of at most about `voxels` voxels but at least one index.

    >>> list(slabs((5, 100, 100), 20_000))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, voxels // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], size):
        yield slice(first, min(first + size, shape[0]))


def empty(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """An array as `numpy.empty` makes it; one of more than `LARGEST` bytes is a mapped temporary file.

    The file lies in the folder that TMPDIR names, on a disk, has no name, and all its room is taken at once. Without
    such room the array is in memory all the same.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > LARGEST and not in_memory(Path(tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(prefix="hpcseg-") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would kill the process
                mapped = mmap.mmap(file.fileno(), size)
        except OSError:
            pass
        else:
            return np.frombuffer(mapped, dtype).reshape(shape)
    return np.empty(shape, dtype)


def zeros(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """As `empty`, filled with zeros."""
    array = empty(shape, dtype)
    for part in slabs(shape):
        array[part] = 0
        release(array)
    return array


def release(array: NDArray[Any]) -> None:
    """Take the pages of a mapped array out of this process' memory; its values stay. Of any other array: nothing."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
