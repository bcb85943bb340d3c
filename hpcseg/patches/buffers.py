"""Several arrays in one buffer, so that a whole minibatch travels to the device in one copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 256  # bytes; where parts of a buffer begin, so that a GPU reads each in whole transactions


@dataclass(frozen=True)
class Parts:
    """The arrays of a buffer, one after the other, each aligned.

    >>> parts = Parts((((2, 3), torch.float32), ((5,), torch.int16)))
    >>> parts.extents, parts.nbytes
    ([(0, 24), (256, 266)], 512)

    Attributes:
        arrays: shape and type of each.
    """

    arrays: tuple[tuple[tuple[int, ...], torch.dtype], ...]

    @cached_property
    def extents(self) -> list[tuple[int, int]]:
        """First byte of each part, and the one after its last."""
        found, start = [], 0
        for shape, dtype in self.arrays:
            end = start + math.prod(shape) * dtype.itemsize
            found.append((start, end))
            start = aligned(end)
        return found

    @property
    def nbytes(self) -> int:
        """Of all parts, to where another could begin."""
        return aligned(self.extents[-1][1])

    def buffer(self, *, pinned: bool = False) -> Tensor:
        """Allocate memory for the parts, uint8; see `new_buffer`."""
        return new_buffer(self.nbytes, pinned=pinned)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Each part of a buffer, on whatever device; the buffer may go on behind them."""
        places = zip(self.extents, self.arrays, strict=True)
        return [buffer[start:end].view(dtype).view(shape) for (start, end), (shape, dtype) in places]


def new_buffer(nbytes: int, *, pinned: bool = False) -> Tensor:
    """Allocate memory of the host, uint8.

    Args:
        nbytes: its size.
        pinned: page-locked, from where a GPU fetches it while the host goes on; torch reuses such memory.
    """
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)


def aligned(byte: int) -> int:
    """First byte from `byte` on at which a part of a buffer may begin."""
    return -(-byte // _ALIGNMENT) * _ALIGNMENT


def on_device(device: torch.device, *arrays: NDArray[Any]) -> list[Tensor]:
    """Copy small arrays to a device, all at once; to a GPU from pinned memory, without waiting."""
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    parts = Parts(tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors))
    packed = parts.buffer(pinned=device.type == "cuda")
    for part, tensor in zip(parts.views(packed), tensors, strict=True):
        part.copy_(tensor)
    return parts.views(packed.to(device, non_blocking=True))
