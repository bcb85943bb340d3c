"""What training minimises (paper 3.1.1, 3.3; decisions.md).

Both losses are computed in float32, whatever the networks' precision, and in a deterministic order.

Shapes: B batch, C classes with background first, D H W (z, y, x) edges.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTHING = 1e-5


def dice_ce(logits_BCDHW: Tensor, label_BDHW: Tensor) -> Tensor:
    """Soft Dice loss plus mean cross-entropy.

    Dice is nnU-Net's: of the softmax, per foreground class over the whole batch, smoothed by 1e-5 in numerator and
    denominator, averaged over the classes, and counted as 1 - Dice.

    Args:
        logits_BCDHW: network output.
        label_BDHW: int64 class indices.

    Returns:
        A scalar of at least 0.
    """
    log_probability = functional.log_softmax(logits_BCDHW.float(), dim=1)
    # torch's own cross-entropy of volumes has no deterministic CUDA kernel; the one-hot label serves both terms.
    classes_C = torch.arange(logits_BCDHW.shape[1], device=label_BDHW.device)
    truth = (label_BDHW[:, None] == classes_C.view(-1, 1, 1, 1)).float()
    cross_entropy = -(truth * log_probability).sum(dim=1).mean()
    probability, truth = log_probability[:, 1:].exp(), truth[:, 1:]
    over_batch = (0, 2, 3, 4)
    overlap = (probability * truth).sum(dim=over_batch)
    total = probability.sum(dim=over_batch) + truth.sum(dim=over_batch)
    dice = (2 * overlap + SMOOTHING) / (total + SMOOTHING)
    return 1 - dice.mean() + cross_entropy


def huber(reconstruction_B1DHW: Tensor, image_B1DHW: Tensor, delta: float) -> Tensor:
    """Mean Huber loss over all voxels: e²/2 up to |e| = delta, delta (|e| - delta/2) beyond."""
    return functional.huber_loss(reconstruction_B1DHW.float(), image_B1DHW.float(), delta=delta)
