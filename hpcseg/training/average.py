"""A moving average of a network's weights: steadier than the weights themselves, which follow every minibatch.

It is a network of its own, the mean teacher of Tarvainen and Valpola (2017), which a strategy may also ask for its
opinion while the other trains.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from hpcseg.networks.convolution import TORCH_ALONE, Convolution
from hpcseg.training.precision import Precision

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """The average of a network over the steps of its training.

    In step t, from 0, the average keeps min(`decay`, (1 + t) / (10 + t)) of itself, so that the first weights are soon
    forgotten. Buffers (batch norms' statistics, averages themselves) are those of the network.

    Args:
        network: to be averaged, not yet placed or shared between ranks.
        decay: see above.
        precision: places and compiles the average as it does the network.

    Attributes:
        network: the average, in evaluation mode; its weights need no gradient.
        steps: that it is of.
    """

    def __init__(self, network: Network, decay: float, precision: Precision) -> None:
        self.network = precision.place(copy.deepcopy(network).requires_grad_(False).eval())
        self._of, self._decay = network, decay
        self.steps = 0

    def update(self) -> None:
        """Take in the weights after a step; nothing waits for a GPU."""
        kept = min(self._decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(_weights(self.network), _weights(self._of), 1 - kept)
            if buffers := list(self.network.buffers()):  # of none torch would complain
                torch._foreach_copy_(buffers, list(self._of.buffers()))
        self.steps += 1

    def follow_plans(self) -> None:
        """Compute convolutions that have no plan of their own as the network does, see `kernel_choice`."""
        for own, other in zip(self.network.modules(), self._of.modules(), strict=True):
            if isinstance(own, Convolution) and isinstance(other, Convolution) and own.plan == TORCH_ALONE:
                own.plan = other.plan


def _weights(network: nn.Module) -> list[Tensor]:
    return [weight.detach() for weight in network.parameters()]
