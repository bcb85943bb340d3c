"""3D U-Net: the network that the F-Net is compared with (paper 1), with as many levels and maps.

It is given one resolution and makes the coarser ones itself. Convolutions are padded with zeros, so that maps keep
their size; the first of each coarser level has a stride of 2, as in nnU-Net, since the gradient of max pooling has no
deterministic CUDA kernel. Transposed convolutions of edge 2 lead up again (Çiçek et al. 2016), each with batch norm
and ReLU: without them, weights as small as the F-Net's at the start would cut the coarse levels off.

Padding reaches inwards: a voxel's prediction depends on how far from the box's faces it lies, unless it is as far as
the network sees. The margin around the target, which is cut off the output, pays for that with computing time: the
wider it is, the less the prediction depends on the tile; an F-Net needs none.

Shapes: B batch, C classes with background first, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from hpcseg.networks.fnet import CBR, initialise
from hpcseg.networks.merging import cut
from hpcseg.networks.normalisation import norm_relu


class Up(nn.Module):
    """Transposed convolution that doubles each axis, batch norm, ReLU."""

    def __init__(self, inputs: int, maps: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(inputs, maps, 2, 2, bias=False)
        self.norm = nn.BatchNorm3d(maps)

    def forward(self, coarse_BKDHW: Tensor) -> Tensor:
        """Return the finer maps."""
        return norm_relu(self.norm, self.conv(coarse_BKDHW))


class UNet(nn.Module):
    """Segmentation network that sees a target and a margin around it at one resolution.

    Args:
        kernel: edge of the kernels of all levels; odd.
        maps: feature maps of each level, finest first.
        classes: foreground classes; the output has one channel more, background first.
        margin: voxels of the input beyond each face of the target.
        gain: of the Xavier normal initialisation.
        generator: random numbers of the initialisation; None starts one with seed 0.
    """

    def __init__(
        self,
        kernel: int,
        maps: Sequence[int],
        classes: int,
        margin: int,
        gain: float,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.down = nn.ModuleList(
            _two_blocks(inputs, own, kernel, stride=1 if level == 0 else 2)
            for level, (inputs, own) in enumerate(pairwise((1, *maps)))
        )
        self.up = nn.ModuleList(Up(lower, own) for own, lower in pairwise(maps))  # entry l leads from l + 1 to l
        self.merge = nn.ModuleList(_two_blocks(2 * own, own, kernel) for own in maps[:-1])
        self.classifier = nn.Conv3d(maps[0], classes + 1, 1)
        initialise(self, gain, generator)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Return the logits of a target patch.

        Args:
            images: one (B, 1, D, H, W) tensor, normalised, of whatever edges; what is odd is halved upwards.

        Returns:
            logits_BCDHW, smaller by 2 `margin` on each axis; softmax is left to the loss and to inference.
        """
        (maps_BKDHW,) = images
        levels = []
        for down in self.down:
            maps_BKDHW = down(maps_BKDHW)
            levels.append(maps_BKDHW)
        for level in range(len(levels) - 2, -1, -1):
            own = levels[level]
            maps_BKDHW = self.merge[level](torch.cat((own, cut(self.up[level](maps_BKDHW), own)), dim=1))
        inner = slice(self.margin, -self.margin or None)
        logits_BCDHW: Tensor = self.classifier(maps_BKDHW[:, :, inner, inner, inner])
        return logits_BCDHW


def _two_blocks(inputs: int, maps: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Return two padded CBR blocks, the first with the stride."""
    first = CBR(inputs, maps, kernel, stride=stride, padding=kernel // 2)
    return nn.Sequential(first, CBR(maps, maps, kernel, padding=kernel // 2))
