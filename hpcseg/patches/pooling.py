"""Means of cubes of int16 codes: exact sums, rounded once, so that host and device find the same codes.

Suffixes: Z, Y, X axes of a box, in voxels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def pool_codes(codes_ZYX: NDArray[np.int16], factor: int, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
    """Mean of every cube of `factor`³ codes, rounded to the nearest code (of two, the even one).

    Args:
        codes_ZYX: int16; each axis is a multiple of `factor`.
        factor: 2 or more; a power of two, at most 32.
        out: int16 of the pooled shape, to be written to; None: a new array.
    """
    # Sums of 8³ int16 fit into the 24 bits of a float32, and dividing by a power of two is exact.
    dtype = np.float32 if factor <= 8 else np.float64
    sums: NDArray[np.floating] = np.add(codes_ZYX[::factor], codes_ZYX[1::factor], dtype=dtype)
    for part in range(2, factor):
        sums += codes_ZYX[part::factor]
    for axis in (1, 2):  # along z first, where slices are contiguous
        first, second, *others = (sums[(slice(None),) * axis + (slice(part, None, factor),)] for part in range(factor))
        sums = first + second
        for other in others:
            sums += other
    sums *= dtype(1 / factor**3)
    if out is None:
        out = np.empty(sums.shape, np.int16)
    np.rint(sums, out=out, casting="unsafe")
    return out


def pool_codes_on_device(codes_ZYX: Tensor, factor: int) -> Tensor:
    """Return what `pool_codes` does, computed in whole numbers where the tensor lies."""
    z, y, x = (edge // factor for edge in codes_ZYX.shape)
    cubes = codes_ZYX.reshape(z, factor, y, factor, x, factor)
    sums = cubes.sum(dim=(1, 3, 5), dtype=torch.int32)
    shift = 3 * (factor.bit_length() - 1)
    sums += (1 << (shift - 1)) - 1 + ((sums >> shift) & 1)  # what rounds half to even
    return (sums >> shift).to(torch.int16)
