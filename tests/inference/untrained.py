"""Networks that nobody trained: random weights, large enough to make a structured prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hpcseg.config import RunConfig
from hpcseg.training.model import TrainedModel, new_network

SPACING = (2.0, 2.0, 2.0)
CPU = torch.device("cpu")
FNET: dict[str, Any] = {"levels": 3, "kernel": 3, "maps": 4, "init_gain": 1.0}
UNET: dict[str, Any] = {"kind": "unet", "levels": 2, "kernel": 3, "maps": (3, 4), "init_gain": 1.0}


def model(
    classes: tuple[tuple[int, ...], ...] = ((1, 2),),
    network: dict[str, Any] = FNET,
    *,
    patch: int = 16,
    spacing: float = SPACING[0],
    seed: int = 3,
    **inference: Any,
) -> TrainedModel:
    """A model as a run would leave it."""
    config = RunConfig.model_validate(
        {
            "patches": {"size": patch},
            "network": network,
            "preprocessing": {"intensity": "window"},
            "inference": inference,
        }
    )
    return model_of(config, classes, spacing=spacing, seed=seed)


def model_of(
    config: RunConfig, classes: tuple[tuple[int, ...], ...] = ((1, 2),), *, spacing: float = SPACING[0], seed: int = 3
) -> TrainedModel:
    """A model of a CT that was configured so."""
    fresh = new_network(config, len(classes), torch.Generator().manual_seed(seed))
    return TrainedModel(
        config=config,
        spacing_zyx=(spacing, spacing, spacing),
        classes=classes,
        padding=-1000.0,
        pyramid_clip=(-200.0, 400.0),
        window=None,
        weights=fresh.state_dict(),
        provenance={"run": f"seed {seed}"},
    )


def save(trained: TrainedModel, folder: Path, name: str = "model.pt") -> Path:
    """Write a model to a file in a folder."""
    trained.save(folder / name)
    return folder / name
