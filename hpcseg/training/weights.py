"""What the training loop does to all weights of a network at once, without waking anybody for it.

On a CPU this thread alone does it: the paper's network is 7 MB, and torch's other threads, asleep since the last
convolution, take longer to come than numpy takes to copy that; where another program has their core, ten times longer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Weights = dict[str, Tensor]


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Copies of all tensors, in the same layout, each on its device; of a GPU nobody waits for them."""
    return {name: _copied(tensor.detach()) for name, tensor in weights.items()}


def on_host(weights: Mapping[str, Tensor]) -> Weights:
    """The tensors on the CPU; those that are there already are not copied."""
    return {name: tensor.cpu() for name, tensor in weights.items()}


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with an infinity or a NaN; None if there is none. Waits for a GPU once."""
    on_gpu = {name: torch.isfinite(tensor).all() for name, tensor in weights.items() if not _is_numpys(tensor)}
    finite = dict(zip(on_gpu, torch.stack([*on_gpu.values()]).tolist(), strict=True)) if on_gpu else {}
    for name, tensor in weights.items():
        if not (finite[name] if name in finite else np.isfinite(tensor.detach().numpy()).all()):
            return name
    return None


def _copied(tensor: Tensor) -> Tensor:
    return torch.from_numpy(tensor.numpy().copy(order="K")) if _is_numpys(tensor) else tensor.clone()


def _is_numpys(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16
