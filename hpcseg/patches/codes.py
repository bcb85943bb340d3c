"""What is computed from stored codes: means of cubes, and a network's input, for training and inference alike.

Sums of codes are exact and rounded once, so that host and device find the same codes.

Shapes: B batch, D/H/W axes z, y, x of a box; Z, Y, X the same of one patch. A `table_B6` has one row per patch of the
batch: slope, intercept, lo, hi, mean and std (float32), with which an intensity is code · slope + intercept, and a
network's input is (clip(intensity, lo, hi) − mean) / std.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.pyramid import Coding

COLUMNS = 6


def table_row(coding: Coding, how: Normalisation) -> NDArray[np.float32]:
    """Return the row of one patch, (6,) float32."""
    return np.array([coding.slope, coding.intercept, how.lo, how.hi, how.mean, how.std], np.float32)


def windowed(codes_BDHW: Tensor, table_B6: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode, clip and normalise, where the codes lie.

    The steps are those of `Coding.decode` and `Normalisation.apply`, in float32 and in the same order.

    Args:
        codes_BDHW: int16 codes, or float32 values interpolated between them.
        table_B6: float32, on the same device.
        dtype: float32, bfloat16 or float16.

    Returns:
        (B, 1, D, H, W) of type `dtype`: the float32 values, rounded once.
    """
    slope, intercept, lo, hi, mean, std = (column[:, None, None, None, None] for column in table_B6.unbind(dim=1))
    return (codes_BDHW[:, None] * slope).add_(intercept).clamp_(lo, hi).sub_(mean).div_(std).to(dtype)


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
