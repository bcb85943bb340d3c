"""Encoders that compute a constant image once: much of a scan lies beyond the window, and is all one number.

Air, and with a liver's window fat as well, are clipped to the window's end: at 1 mm, to an eighth or a quarter of a
CT's tiles the finest level is nothing else. The same image has the same answer, so that no bit changes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from hpcseg.networks.fnet import FNet

_KEPT = 64  # answers of an encoder, of one voxel each: tiles at a scan's far faces have up to eight shapes


class ConstantOnce(nn.Module):
    """An encoder of one image, which remembers what it made of images that were all one number.

    Args:
        encoder: in evaluation mode, as are all modules in it.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._answer = lru_cache(_KEPT)(self._answer_to)

    def forward(self, image_B1DHW: Tensor) -> Tensor:
        """Return features_BKDHW."""
        lowest, highest = (float(bound) for bound in image_B1DHW.aminmax())
        kind = image_B1DHW.shape, image_B1DHW.dtype, image_B1DHW.device
        answer = self._answer(lowest, *kind) if lowest == highest else None
        if answer is None:
            return self._encoded(image_B1DHW)
        voxel_BK111, shape, strides = answer
        return voxel_BK111.new_empty_strided(shape, strides).copy_(voxel_BK111)

    def _answer_to(
        self, value: float, shape: torch.Size, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, torch.Size, tuple[int, ...]] | None:
        """Features of one voxel, shape and strides of those of all; None if they are not all the same to the bit."""
        features_BKDHW = self._encoded(torch.full(shape, value, dtype=dtype, device=device))
        voxel_BK111 = features_BKDHW[:, :, :1, :1, :1]
        if not bool((features_BKDHW == voxel_BK111).all()):
            return None
        return voxel_BK111.clone(), features_BKDHW.shape, features_BKDHW.stride()

    def _encoded(self, image_B1DHW: Tensor) -> Tensor:
        features_BKDHW: Tensor = self.encoder(image_B1DHW)
        return features_BKDHW


def constants_once(network: nn.Module) -> None:
    """Let a network in evaluation mode compute constant images once, if it has an encoder for each of its images."""
    if isinstance(network, FNet):
        network.encoders = nn.ModuleList(ConstantOnce(encoder) for encoder in network.encoders)
