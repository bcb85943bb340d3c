"""S-TL: an autoencoder's encoder convolutions, times φ, as the start of an F-Net's level (paper 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hpcseg.config import RunConfig
from hpcseg.networks.fnet import FNet
from hpcseg.training.update import ParameterGroup

# Which of a level's three convolutions are fine-tuned; the others stay as transferred.
_TUNED: Mapping[str, tuple[int, ...]] = {
    "freeze_all": (),
    "tune_3": (2,),
    "tune_2_3": (1, 2),
    "tune_1_3": (0, 1, 2),
    "tune_2_3_retrain_coarsest": (1, 2),
}


@torch.no_grad()
def transfer(config: RunConfig, network: FNet, encoders: Sequence[Mapping[str, Tensor]]) -> None:
    """Copy φ times the convolution weights of each level's encoder into the F-Net, in place.

    Batch norms are not transferred. φ "auto" is, per layer, RMS(fresh F-Net weights) / RMS(autoencoder weights).

    Args:
        config: the run; `transfer.scheme` may leave the coarsest level out.
        network: a freshly initialised F-Net.
        encoders: per level, finest first, the state of an `Encoder`.
    """
    for level in range(transferred_levels(config)):
        for number, block in enumerate(network.encoder(level).blocks, start=1):
            learned = encoders[level][f"cbr{number}.conv.weight"]
            fresh = block.conv.weight
            phi = config.transfer.phi
            if phi == "auto":
                phi = float(fresh.square().mean().sqrt() / learned.square().mean().sqrt())
            fresh.copy_(phi * learned)


def transferred_levels(config: RunConfig) -> int:
    """How many levels, from the finest on, receive an autoencoder's weights."""
    return config.network.levels - (config.transfer.scheme == "tune_2_3_retrain_coarsest")


def parameter_groups(config: RunConfig, network: FNet) -> list[ParameterGroup]:
    """Freeze what the scheme freezes; return the fine-tuned convolutions and all the rest, each with its rate.

    Batch norms train at the full rate even where convolutions are frozen.
    """
    tuned: list[nn.Parameter] = []
    transferred: set[int] = set()
    for level in range(transferred_levels(config)):
        for index, block in enumerate(network.encoder(level).blocks):
            weight = cast(nn.Parameter, block.conv.weight)
            transferred.add(id(weight))
            if index in _TUNED[config.transfer.scheme]:
                tuned.append(weight)
            else:
                weight.requires_grad_(False)
    rest = [parameter for parameter in network.parameters() if id(parameter) not in transferred]
    groups = [{"params": rest, "lr": config.training.learning_rate}]
    return [*groups, {"params": tuned, "lr": config.transfer.fine_tune_rate}] if tuned else groups
