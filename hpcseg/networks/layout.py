"""How maps lie in memory: all of a voxel's maps side by side, as tensor cores and hpcseg's kernels want them.

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_LAST = torch.channels_last_3d


def channels_last(maps_BKDHW: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return maps with channels last, of type `dtype` (None: their own); the same tensor where they are so already."""
    return maps_BKDHW.to(maps_BKDHW.dtype if dtype is None else dtype).contiguous(memory_format=CHANNELS_LAST)


def is_channels_last(maps_BKDHW: Tensor) -> bool:
    """Whether maps lie with channels last."""
    return maps_BKDHW.is_contiguous(memory_format=CHANNELS_LAST)
