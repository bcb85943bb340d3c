"""Batch norm followed by ReLU.

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def norm_relu(norm: nn.BatchNorm3d, maps_BKDHW: Tensor) -> Tensor:
    """Return relu(norm(maps_BKDHW)), in the dtype of `maps_BKDHW`; running statistics are brought up to date.

    Args:
        norm: a batch norm of whatever kind, in training or evaluation mode.
        maps_BKDHW: may be overwritten.
    """
    return functional.relu(norm(maps_BKDHW), inplace=True)
