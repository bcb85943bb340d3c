"""Dice of minibatches: how well a network segments patches while it trains.

Of hard decisions, so that it reads like the DSC of whole volumes; a loss is soft and has cross-entropy in it.

Shapes: B batch, C classes with background first, D H W (z, y, x) edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcseg.spec import IGNORED


def overlap(logits_BCDHW: Tensor, label_BDHW: Tensor) -> Tensor:
    """Count the voxels of each foreground class in which answer and label agree, and those that either gives it.

    Voxels whose label is `IGNORED` are left out.

    Returns:
        (2, C - 1) int64: those of the intersection, and the sum of those of the answer and of the label.

    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [1.0, 3.0, 1.0]]).reshape(1, 2, 1, 1, 3)
    >>> overlap(logits, torch.tensor([1, 1, IGNORED]).reshape(1, 1, 1, 3)).tolist()
    [[1], [3]]
    """
    found_BDHW = logits_BCDHW.argmax(dim=1).masked_fill(label_BDHW == IGNORED, 0)
    pairs = [(found_BDHW == value, label_BDHW == value) for value in range(1, logits_BCDHW.shape[1])]
    return torch.stack(
        [
            torch.stack([(found & true).sum() for found, true in pairs]),
            torch.stack([found.sum() + true.sum() for found, true in pairs]),
        ]
    )


def dice(overlap_2C: Tensor) -> list[float | None]:
    """Dice of each foreground class; None of one that neither answer nor label has.

    >>> dice(torch.tensor([[1, 0], [3, 0]]))
    [0.6666666666666666, None]
    """
    both, total = overlap_2C.tolist()
    return [2 * b / t if t else None for b, t in zip(both, total, strict=True)]
