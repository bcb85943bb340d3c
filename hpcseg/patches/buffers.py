"""Parts of one buffer, aligned, so that a whole minibatch travels to the device in one copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def on_device(device: torch.device, *arrays: NDArray[Any]) -> list[Tensor]:
    """Copy small arrays to a device, all at once; to a GPU from pinned memory, without waiting."""
    arrays = tuple(map(np.ascontiguousarray, arrays))
    parts = [(array.shape, torch.from_numpy(array).dtype) for array in arrays]
    places = extents(parts)
    packed = torch.empty(aligned(places[-1][1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    memory = packed.numpy()
    for array, (start, end) in zip(arrays, places, strict=True):
        memory[start:end] = array.reshape(-1).view(np.uint8)
    sent = packed.to(device, non_blocking=True)
    return [sent[start:end].view(dtype).view(shape) for (start, end), (shape, dtype) in zip(places, parts, strict=True)]


Part = tuple[tuple[int, ...], torch.dtype]  # of a buffer: shape and type


_ALIGNMENT = 256  # bytes; where parts of a buffer begin, so that a GPU reads each in whole transactions


def extents(parts: Sequence[Part]) -> list[tuple[int, int]]:
    """First byte of each part of a buffer, and the one after its last."""
    found, start = [], 0
    for shape, dtype in parts:
        end = start + math.prod(shape) * dtype.itemsize
        found.append((start, end))
        start = aligned(end)
    return found


def aligned(byte: int) -> int:
    """First byte from `byte` on at which a part of a buffer may begin."""
    return -(-byte // _ALIGNMENT) * _ALIGNMENT
