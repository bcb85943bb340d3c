"""Weights of what was trained before, taken only from the run that they are meant to be of, or from a model of one's
own choice (`training.start`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE
from hpcseg.sections import toml_text
from hpcseg.spec import StartRef

if TYPE_CHECKING:
    from torch import Tensor

    from hpcseg.training.model import TrainedModel

CLASSIFIER = "classifier."  # of either network: the last convolution, whose channels are what it is trained for
_ENCODERS = ("encoders.", "down.")  # of an F-Net, of a U-Net


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


def start_of(path: Path, model: TrainedModel, config: RunConfig, classes: int) -> StartRef:
    """The model at `path` as the start of a run of `config` with so many foreground classes.

    Raises:
        BadInput: its network is not the run's.
    """
    from hpcseg.training.checkpoint import digest_of

    own, wanted = model.config.network, config.network
    for key in ("kind", "levels", "kernel", "maps_per_level"):
        has, asked = getattr(own, key), getattr(wanted, key)
        if has != asked:
            name = f"network.{key.removesuffix('_per_level')}"
            raise BadInput(
                f"training.start: {path} has {name} = {toml_text(has)}, the run {toml_text(asked)}; set {name} to the "
                "model's, or start with another model"
            )
    if config.training.start_layers == "all" and model.class_count != classes:
        raise BadInput(
            f"training.start: {path} has {model.class_count}, the run {classes} foreground classes; leave the model's "
            'classifier out with training.start_layers = "features"'
        )
    return StartRef(path=path, digest=digest_of(path), layers=config.training.start_layers)


def start_weights(start: StartRef) -> dict[str, Tensor]:
    """Those weights of a model that a run begins with.

    Raises:
        BadInput: the model is missing or damaged, or another one than when the run was planned.
    """
    from hpcseg.training.checkpoint import digest_of
    from hpcseg.training.model import TrainedModel

    if digest_of(start.path) != start.digest:
        raise BadInput(f"{start.path} was changed after this run was planned; hpcseg sweep plans another one from it")
    weights = TrainedModel.load(start.path).weights
    return {name: weight for name, weight in weights.items() if is_taken(name, start.layers)}


def is_taken(name: str, layers: str) -> bool:
    """Whether a weight is among those that `training.start_layers` names.

    >>> [is_taken("encoders.0.cbr1.conv.weight", layers) for layers in ("all", "features", "encoders")]
    [True, True, True]
    >>> [is_taken("integrations.0.conv.weight", layers) for layers in ("all", "features", "encoders")]
    [True, True, False]
    >>> [is_taken("classifier.bias", layers) for layers in ("all", "features", "encoders")]
    [True, False, False]
    """
    if layers == "encoders":
        return name.startswith(_ENCODERS)
    return layers == "all" or not name.startswith(CLASSIFIER)
