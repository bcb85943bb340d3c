"""Arrays that are too large for the memory: they lie in a temporary file that goes with them."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcseg.volumes.memory import in_memory
from hpcseg.volumes.slabs import slabs

LARGEST = 1 << 30  # bytes of an array that is kept in memory


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
