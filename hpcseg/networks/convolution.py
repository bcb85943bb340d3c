"""The networks' valid 3D convolutions, which are nearly all of a training step.

Shapes: B batch, I input maps, K feature maps, D H W (z, y, x) edges, n kernel edge.
"""

from __future__ import annotations

from torch import Tensor, nn


class Convolution(nn.Conv3d):
    """A 3D convolution; parameters and state are those of `torch.nn.Conv3d`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return maps_BKDHW."""
        return super().forward(input)
