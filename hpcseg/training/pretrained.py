"""Weights of what was trained before, taken only from the run that they are meant to be of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE

if TYPE_CHECKING:
    from torch import Tensor


def pretrained_weights(path: Path, *, level: int | None = None, strategy: str = "") -> dict[str, Tensor]:
    """Weights in the `model.pt` of a pretraining: of the autoencoder of `level`, or of the network of a `strategy`.

    Raises:
        BadInput: the file is damaged, of another kind, level, strategy or run.
    """
    from hpcseg.training.checkpoint import load_tensors
    from hpcseg.training.model import require_own

    plain = load_tensors(path)
    kind, of = ("hpcseg-autoencoder 1", level) if level is not None else ("hpcseg-pretrained 1", strategy)
    found = plain.get("level" if level is not None else "strategy", of)
    if plain.get("kind", kind) != kind or found != of:
        wanted = f"the autoencoder of level {level}" if level is not None else f"the pretrained network of '{strategy}'"
        raise BadInput(
            f"{path}: is not {wanted} ({plain.get('kind')}, of {found}); delete {path.parent} and run the sweep again"
        )
    require_own(path, plain)
    folder = path.parent
    in_its_place = path.name == MODEL_FILE and folder.parent.name == "pretrain"  # also where run.json was purged
    if in_its_place and plain.get("run", folder.name) != folder.name:
        raise BadInput(f"{path}: is the model of {plain['run']}; delete {folder} and run the sweep again")
    return sound_weights(path, plain)


def sound_weights(path: Path, plain: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of what was read from a model's file.

    Raises:
        BadInput: there are none, or they are no finite numbers.
    """
    import torch

    weights = plain.get("weights")
    named = weights.items() if isinstance(weights, dict) else ()
    if not named or not all(isinstance(one, torch.Tensor) and bool(torch.isfinite(one).all()) for _, one in named):
        raise BadInput(f"{path}: its weights are missing, or no finite numbers; delete {path.parent} and train it anew")
    return dict(named)
