"""Batch norm followed by ReLU.

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpcseg import kernels

MAX_MAPS = 1024  # of the kernels; each of their programs has all maps of some voxels


def norm_relu(norm: nn.BatchNorm3d, maps_BKDHW: Tensor) -> Tensor:
    """Return relu(norm(maps_BKDHW)), in the dtype of `maps_BKDHW`; running statistics are brought up to date.

    Args:
        norm: a batch norm of whatever kind, in training or evaluation mode.
        maps_BKDHW: not to be used any more: may be overwritten, or kept for the backward pass.
    """
    if kernels.run_on(maps_BKDHW.device) and _fits(norm, maps_BKDHW):
        from hpcseg.networks.kernels import norm as fused

        return fused.norm_relu(norm, maps_BKDHW)
    return functional.relu(norm(maps_BKDHW), inplace=True)


def _fits(norm: nn.BatchNorm3d, maps_BKDHW: Tensor) -> bool:
    """Whether the kernels do what this norm does; those over several ranks, and evaluation, stay with torch."""
    return (
        type(norm) is nn.BatchNorm3d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        and maps_BKDHW.dtype in kernels.DTYPES
        and maps_BKDHW.dim() == 5
        and maps_BKDHW.shape[1] == norm.num_features <= MAX_MAPS
        and maps_BKDHW.numel() > norm.num_features  # more than one voxel
    )
