"""Where a coarser level's maps join those of the next finer one.

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hpcseg import kernels

MAX_MAPS = 1024  # limits of the kernels
_MAX_VOXELS = 1 << 30  # of a sample


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
    if kernels.run_on(fine_BKDHW.device) and _fit(fine_BKDHW, coarse_BKDHW):
        from hpcseg.networks.kernels import merge

        return merge.merged(fine_BKDHW, coarse_BKDHW)
    if coarse_BKDHW.device.type == "cuda":
        upsampled = doubled(coarse_BKDHW)
    else:
        upsampled = functional.interpolate(coarse_BKDHW, scale_factor=2, mode="nearest")
    return torch.cat((fine_BKDHW, cut(upsampled, fine_BKDHW)), dim=1)


def doubled(maps_BKDHW: Tensor) -> Tensor:
    """Repeat every voxel twice on each axis; channels last.

    What `interpolate` does by nearest neighbours, but on GPUs its gradient would be summed in changing order.
    """
    batch, maps, *edges = maps_BKDHW.shape
    depth, height, width = edges
    maps_BDHWK = maps_BKDHW.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]
    maps_BDHWK = maps_BDHWK.expand(batch, depth, 2, height, 2, width, 2, maps)
    return maps_BDHWK.reshape(batch, 2 * depth, 2 * height, 2 * width, maps).permute(0, 4, 1, 2, 3)


def _fit(fine_BKDHW: Tensor, coarse_BKDHW: Tensor) -> bool:
    """Whether the kernels merge these; what does not go together at all is left to torch to complain about."""
    return (
        fine_BKDHW.dim() == coarse_BKDHW.dim() == 5
        and fine_BKDHW.device == coarse_BKDHW.device
        and fine_BKDHW.dtype == coarse_BKDHW.dtype
        and fine_BKDHW.dtype in kernels.DTYPES
        and fine_BKDHW.shape[0] == coarse_BKDHW.shape[0] <= kernels.MOST_SAMPLES
        and max(fine_BKDHW.shape[1], coarse_BKDHW.shape[1]) <= MAX_MAPS
        and all(2 * large >= small for small, large in zip(fine_BKDHW.shape[2:], coarse_BKDHW.shape[2:], strict=True))
        and max(fine_BKDHW[0, 0].numel(), coarse_BKDHW[0, 0].numel()) < _MAX_VOXELS
        and fine_BKDHW.numel() > 0
    )
