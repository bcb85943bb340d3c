"""F-Net: a foveal network whose levels see the same place at several resolutions (paper 3.1).

Every convolution is valid, so that the prediction at a voxel depends on fixed surroundings only and a volume may be cut
into tiles of any size. Sizes follow from the inputs; `hpcseg.patches.geometry` says what they have to be.

Shapes: B batch, C classes with background first, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hpcseg.networks.convolution import Convolution
from hpcseg.networks.forks import side_by_side
from hpcseg.networks.merging import merged
from hpcseg.networks.normalisation import norm_relu


class CBR(nn.Module):
    """Convolution, batch norm, ReLU: (B, `inputs`, D, H, W) to (B, `maps`, D - k + 1, H - k + 1, W - k + 1).

    That is with the valid convolution of an F-Net; a U-Net pads with zeros and halves its maps by a stride of 2.

    Under autocast the convolution runs in a type of 16 bits; the batch norm takes its result as it is, but computes and
    keeps its statistics in float32, since with a gain of 0.01 variances come near its ε.
    """

    def __init__(self, inputs: int, maps: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = Convolution(inputs, maps, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm3d(maps)

    def forward(self, image_BKDHW: Tensor) -> Tensor:
        """Return the feature maps."""
        return norm_relu(self.norm, self.conv(image_BKDHW))

    def twin(self) -> CBR:
        """Return a block that shares this one's convolution and has a fresh batch norm of its own."""
        other = CBR(self.conv.in_channels, self.conv.out_channels, self.conv.kernel_size[0])
        other.conv = self.conv
        other.norm.to(self.conv.weight.device)
        return other


class Encoder(nn.Module):
    """The three CBR blocks of one level, the same in the F-Net and in that level's autoencoder.

    Parameters are named `cbr1.conv.weight`, `cbr1.norm.weight`, ... `cbr3.norm.bias`.
    """

    def __init__(self, inputs: int, maps: int, kernel: int) -> None:
        super().__init__()
        self.cbr1 = CBR(inputs, maps, kernel)
        self.cbr2 = CBR(maps, maps, kernel)
        self.cbr3 = CBR(maps, maps, kernel)

    @property
    def blocks(self) -> tuple[CBR, CBR, CBR]:
        """CBR1 to CBR3."""
        return self.cbr1, self.cbr2, self.cbr3

    @property
    def maps(self) -> int:
        """Number of feature maps."""
        return self.cbr3.conv.out_channels

    def norm_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the batch norms' parameters: all that a twin does not share."""
        for block in self.blocks:
            yield from block.norm.parameters()

    def twin(self) -> Encoder:
        """Return an encoder with the same convolutions (shared, not copied) and fresh batch norms (S-MTL)."""
        other = Encoder(self.cbr1.conv.in_channels, self.maps, self.cbr1.conv.kernel_size[0])
        other.cbr1, other.cbr2, other.cbr3 = (block.twin() for block in self.blocks)
        return other

    def forward(self, image_B1DHW: Tensor) -> Tensor:
        """Return features_BKDHW, smaller by 3 (kernel - 1) on each axis."""
        features_BKDHW: Tensor = self.cbr3(self.cbr2(self.cbr1(image_B1DHW)))
        return features_BKDHW


class FNet(nn.Module):
    """Foveal segmentation network.

    Args:
        kernel: edge of all kernels but the last; odd.
        levels: number of resolutions.
        maps: feature maps of each level, finest first.
        classes: foreground classes; the output has one channel more, background first.
        gain: of the Xavier normal initialisation.
        generator: random numbers of the initialisation; None starts one with seed 0.
    """

    def __init__(
        self,
        kernel: int,
        levels: int,
        maps: Sequence[int],
        classes: int,
        gain: float,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(maps) != levels:
            raise ValueError(f"{len(maps)} numbers of maps for {levels} levels")
        lower = (*maps[1:], 0)  # maps that arrive from the level below
        self.encoders = nn.ModuleList(Encoder(1, own, kernel) for own in maps)
        self.integrations = nn.ModuleList(
            CBR(maps[level] + lower[level], maps[level], kernel) for level in range(1, levels)
        )  # entry l - 1 brings level l to level l - 1
        self.classifier = Convolution(maps[0] + lower[0], classes + 1, 1)
        initialise(self, gain, generator)

    def encoder(self, level: int) -> Encoder:
        """Return the encoder of one level."""
        encoder = self.encoders[level]
        assert isinstance(encoder, Encoder)
        return encoder

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Return the logits of a target patch.

        Args:
            images: one (B, 1, D, H, W) tensor per level, finest first, normalised.

        Returns:
            logits_BCDHW, of the edges of the finest level's features; softmax is left to the loss and to inference.
        """
        if len(images) != len(self.encoders):
            raise ValueError(f"{len(images)} images for {len(self.encoders)} levels")
        features = side_by_side([partial(encoder, image) for encoder, image in zip(self.encoders, images, strict=True)])
        maps_BKDHW = features[-1]()
        for level in range(len(images) - 1, 0, -1):
            features_BKDHW = features[level - 1]()
            maps_BKDHW = merged(features_BKDHW, self.integrations[level - 1](maps_BKDHW))
        logits_BCDHW: Tensor = self.classifier(maps_BKDHW)
        return logits_BCDHW


def initialise(module: nn.Module, gain: float, generator: torch.Generator | None = None) -> None:
    """Draw every convolution's weights from Xavier's normal distribution and set every bias to 0 (paper 3.1.1).

    Args:
        module: on the generator's device, or on "meta", where there is nothing to draw.
        gain: factor on the standard deviation sqrt(2 / (fan in + fan out)).
        generator: source of randomness, in the order of `module.modules()`; None starts one with seed 0, so that the
            global generator is never used.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    for part in module.modules():
        if isinstance(part, nn.Conv3d | nn.ConvTranspose3d) and not part.weight.is_meta:
            nn.init.xavier_normal_(part.weight, gain=gain, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
