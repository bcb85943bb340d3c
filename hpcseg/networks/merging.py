"""Where a coarser level's maps join those of the next finer one.

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cut(maps_BKDHW: Tensor, like_BKDHW: Tensor) -> Tensor:
    """Cut the far end of each axis to the size of `like_BKDHW`."""
    depth, height, width = like_BKDHW.shape[2:]
    return maps_BKDHW[:, :, :depth, :height, :width]


def merged(fine_BKDHW: Tensor, coarse_BKDHW: Tensor) -> Tensor:
    """Concatenate maps with coarser ones, of which every voxel is repeated twice on each axis.

    Args:
        fine_BKDHW: gives the edges of the result.
        coarse_BKDHW: at least half as large; what is too much is cut off the far end.

    Returns:
        (B, K of both, D, H, W), the fine maps first.
    """
    upsampled = functional.interpolate(coarse_BKDHW, scale_factor=2, mode="nearest")
    return torch.cat((fine_BKDHW, cut(upsampled, fine_BKDHW)), dim=1)
