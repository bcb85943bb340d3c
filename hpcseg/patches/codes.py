"""From stored codes to a network's input, on the device that computes: one function for training and inference.

Shapes: B batch, D/H/W axes z, y, x of a box. A `table_B6` has one row per patch of the batch: slope, intercept, lo, hi,
mean and std (float32), with which an intensity is code · slope + intercept, and a network's input is
(clip(intensity, lo, hi) − mean) / std.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.volumes.intensities import Normalisation

COLUMNS = 6


def table_row(slope: float, intercept: float, how: Normalisation) -> NDArray[np.float32]:
    """Return the row of one patch, (6,) float32."""
    return np.array([slope, intercept, how.lo, how.hi, how.mean, how.std], np.float32)


def windowed(codes_BDHW: Tensor, table_B6: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode, clip and normalise, where the codes lie.

    The steps are those of `StoredCase.decode` and `Normalisation.apply`, in float32 and in the same order.

    Args:
        codes_BDHW: int16 codes, or float32 values interpolated between them.
        table_B6: float32, on the same device.
        dtype: float32, bfloat16 or float16.

    Returns:
        (B, 1, D, H, W) of type `dtype`: the float32 values, rounded once.
    """
    slope, intercept, lo, hi, mean, std = (column[:, None, None, None, None] for column in table_B6.unbind(dim=1))
    return (codes_BDHW[:, None] * slope).add_(intercept).clamp_(lo, hi).sub_(mean).div_(std).to(dtype)
