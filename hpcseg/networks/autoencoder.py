"""WTA-CAE: a convolutional autoencoder whose code keeps the strongest activations only (paper 3.3).

Shapes: B batch, K feature maps, D H W (z, y, x) edges.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hpcseg.networks.fnet import Encoder, initialise
from hpcseg.networks.winners import sparse_decode, top_winners


class WTAutoencoder(nn.Module):
    """Winner-take-all autoencoder of one level.

    Args:
        kernel: edge of the encoder's kernels; the decoder's, 3 (kernel - 1) + 1, gives back what they take.
        maps: feature maps of the encoder.
        winners: activations that survive in each feature map of each sample.
        gain: of the Xavier normal initialisation.
        encoder: the encoder to train, left as it is (S-MTL: a `twin` of the F-Net's); None makes a fresh one.
        generator: random numbers of the initialisation; None starts one with seed 0.

    Raises:
        ValueError: `encoder` has another number of maps.
    """

    def __init__(
        self,
        kernel: int,
        maps: int,
        winners: int,
        gain: float,
        *,
        encoder: Encoder | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if encoder is not None and encoder.maps != maps:
            raise ValueError(f"the given encoder has {encoder.maps} maps, not {maps}")
        self.winners = winners
        self.encoder = Encoder(1, maps, kernel) if encoder is None else encoder
        self.decoder = nn.ConvTranspose3d(maps, 1, 3 * (kernel - 1) + 1)
        initialise(self if encoder is None else self.decoder, gain, generator)

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the decoder's weight and bias."""
        return self.decoder.parameters()

    def forward(self, image_B1DHW: Tensor) -> Tensor:
        """Return the reconstruction of a normalised image from its winners, of the image's own size."""
        code_BKDHW = self.encoder(image_B1DHW)
        depth, height, width = code_BKDHW.shape[2:]
        winners = top_winners(code_BKDHW.float(), self.winners)
        assert self.decoder.bias is not None
        return sparse_decode(winners, self.decoder.weight, self.decoder.bias, (depth, height, width))
