"""WTA-CAE: a convolutional autoencoder whose code keeps the strongest activations only (paper 3.3).

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpcseg.config import AutoencoderConfig
from hpcseg.networks.fnet import CBR, Encoder, initialise
from hpcseg.networks.winners import Winners, dense_code, sparse_decode, top_winners


class WTAutoencoder(nn.Module):
    """Winner-take-all autoencoder of one level.

    Args:
        kernel: edge of the encoder's kernels.
        maps: feature maps of the encoder.
        gain: of the Xavier normal initialisation.
        config: says how many activations survive (`winners`, `lifetime`, see `top_winners`), and the `decoder`:
            "transposed", one transposed convolution of edge 3 (kernel - 1) + 1, or "cbru", see `CBRU`.
        encoder: the encoder to train, left as it is (S-MTL: a `twin` of the F-Net's); None makes a fresh one.
        generator: random numbers of the initialisation; None starts one with seed 0.

    Raises:
        ValueError: `encoder` has another number of maps.
    """

    def __init__(
        self,
        kernel: int,
        maps: int,
        gain: float,
        config: AutoencoderConfig,
        *,
        encoder: Encoder | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if encoder is not None and encoder.maps != maps:
            raise ValueError(f"the given encoder has {encoder.maps} maps, not {maps}")
        self.winners, self.lifetime = config.winners, config.lifetime
        self.encoder = Encoder(1, maps, kernel) if encoder is None else encoder
        self.decoder = Stamps(maps, 3 * (kernel - 1) + 1) if config.decoder == "transposed" else CBRU(maps, kernel)
        initialise(self if encoder is None else self.decoder, gain, generator)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the decoder's parameters."""
        return self.decoder.parameters()

    def forward(self, image_B1DHW: Tensor) -> Tensor:
        """Return the reconstruction of a normalised image from its winners, of the image's own size."""
        code_BKDHW = self.encoder(image_B1DHW)
        depth, height, width = code_BKDHW.shape[2:]
        winners = top_winners(code_BKDHW, self.winners, self.lifetime)
        reconstruction_B1DHW: Tensor = self.decoder(winners, (depth, height, width))
        return reconstruction_B1DHW


class Stamps(nn.ConvTranspose3d):
    """One transposed convolution from `maps` maps to an image, computed from the winners alone."""

    def __init__(self, maps: int, edge: int) -> None:
        super().__init__(maps, 1, edge)

    def forward(self, winners: Winners, code_shape: tuple[int, int, int]) -> Tensor:  # type: ignore[override]
        """Return image_B1DHW, larger than `code_shape` by edge - 1 on each axis."""
        assert self.bias is not None
        return sparse_decode(winners, self.weight, self.bias, code_shape)


class CBRU(nn.Module):
    """CBR and nearest upsampling, as the F-Net integrates a lower level, then a 1×1×1 convolution to one channel.

    The paper tried it and dropped it (3.4). An F-Net doubles each axis because the next level is twice as fine; here
    code and image have one resolution, so the maps are stretched to the size of the image instead.
    """

    def __init__(self, maps: int, kernel: int) -> None:
        super().__init__()
        self.cbr = CBR(maps, maps, kernel)
        self.channel = nn.Conv3d(maps, 1, 1)
        self.growth = 3 * (kernel - 1)

    def forward(self, winners: Winners, code_shape: tuple[int, int, int]) -> Tensor:
        """Return image_B1DHW, larger than `code_shape` by 3 (kernel - 1) on each axis."""
        # The 1×1×1 convolution and nearest upsampling commute; this order has fewer voxels and one channel.
        small_B1DHW = self.channel(self.cbr(dense_code(winners, code_shape)))
        return functional.interpolate(small_B1DHW, [size + self.growth for size in code_shape], mode="nearest")
