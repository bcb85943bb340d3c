"""A trained network as one file that needs no run directory: weights, and all that applying them to a scan takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from hpcseg.config import Pair, RunConfig
from hpcseg.errors import BadInput
from hpcseg.networks.fnet import FNet
from hpcseg.networks.unet import UNet
from hpcseg.patches.geometry import FovealGeometry, PaddedGeometry, PatchGeometry
from hpcseg.paths import MODEL_FILE, RUN_FILE, TRAINING_FILE
from hpcseg.spec import Spacing, TrainSpec, read_spec, spec_digest
from hpcseg.text import in_words
from hpcseg.training.checkpoint import load_tensors, save_tensors
from hpcseg.training.precision import place
from hpcseg.version import __version__
from hpcseg.volumes.datasets import open_dataset

MOST_CLASSES = 255
SMALLEST_MM, LARGEST_MM = 1e-6, 1000.0  # electron microscopes see nanometres
LARGEST_WEIGHT = 1e15  # of trained networks, variances of intensities are the largest, far below it
_KINDS = {"fnet": "hpcseg-fnet 1", "unet": "hpcseg-unet 1"}

SegmentationNetwork = FNet | UNet  # called with a list of images, one per input box; returns logits of the target


def geometry_of(config: RunConfig) -> PatchGeometry:
    """The geometry of the patches that a run's network trains with."""
    patch, network = config.patches.size, config.network
    if network.kind == "fnet":
        return FovealGeometry(patch, network.kernel, network.levels)
    if network.margin == "auto":
        return PaddedGeometry.around(patch, network.levels)
    return PaddedGeometry(patch, network.margin, network.levels)


def new_network(config: RunConfig, classes: int, generator: torch.Generator | None = None) -> SegmentationNetwork:
    """A fresh network for `classes` foreground classes, its weights drawn from `generator`."""
    network, maps = config.network, config.network.maps_per_level
    if network.kind == "fnet":
        return FNet(network.kernel, network.levels, maps, classes, network.init_gain, generator=generator)
    margin = -geometry_of(config).origins[0]
    return UNet(network.kernel, maps, classes, margin, network.init_gain, generator=generator)


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class TrainedModel:
    """Weights, and how a scan becomes their input; what is read from a file is checked.

    `window` is the clip window of the labelled volumes (None where the intensity method has none); `classes` lists the
    label values of each foreground class, `class_names` what the dataset calls them (empty where it is not known).
    `provenance` is where it comes from: run, strategy, dataset, labelled, fold, seed, trained (UTC), versions.
    """

    config: RunConfig
    spacing_zyx: Spacing
    classes: tuple[tuple[int, ...], ...]
    padding: Literal["minimum"] | float
    pyramid_clip: Pair | None
    window: Pair | None
    weights: dict[str, Tensor]
    provenance: dict[str, Any]
    class_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the run that trained it."""
        return str(self.provenance.get("run", "without a name"))

    @property
    def class_count(self) -> int:
        """Number of foreground classes."""
        return max(len(self.classes), 1)

    def network(self, device: torch.device) -> SegmentationNetwork:
        """The network with these weights, in evaluation mode."""
        network = new_network(self.config, self.class_count)
        network.load_state_dict(self.weights)
        return place(network, device).eval()

    @classmethod
    def of(cls, spec: TrainSpec, window: Pair | None, weights: dict[str, Tensor]) -> TrainedModel:
        """The model that a training run leaves."""
        config = spec.config
        return cls(
            config=config,
            spacing_zyx=spec.spacing_zyx,
            classes=spec.classes,
            padding=spec.padding,
            pyramid_clip=spec.pyramid_clip,
            window=window,
            weights=weights,
            provenance={
                "run": spec.id,
                "run_digest": spec_digest(spec),
                "strategy": config.strategy,
                "dataset": config.data.dataset,
                "labelled": config.labelled,
                "fold": config.fold,
                "seed": config.seed,
                "trained": datetime.now(UTC).isoformat(timespec="seconds"),
                "hpcseg": __version__,
                "torch": str(torch.__version__),
            },
            class_names=_class_names(spec),
        )

    def save(self, path: Path) -> None:
        """Write the model to one file, atomically."""
        plain = {field.name: _lists(getattr(self, field.name)) for field in fields(self)}
        plain["config"] = self.config.model_dump_json()
        save_tensors(path, {"kind": _KINDS[self.config.network.kind], **plain})

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """Read a model; `path` is the file or a run directory that holds one.

        Raises:
            BadInput: there is no such file, or it is damaged or of another kind.
        """
        file = path / MODEL_FILE if path.is_dir() else path
        if not file.exists():
            next_ = "`hpcseg status` tells which runs are done"
            if (file.parent / TRAINING_FILE).exists():
                next_ = f"it was, and was removed: move {file.parent} away, and the same hpcseg sweep trains it anew"
            raise BadInput(f"{file}: no trained model there; {next_}")
        try:
            plain = load_tensors(file)
        except BadInput as error:
            raise BadInput(f"{error}; give a model.pt that hpcseg wrote, or its run") from None
        if str(plain.get("kind")).startswith(("hpcseg-autoencoder ", "hpcseg-pretrained ")):
            what = "an autoencoder" if "level" in plain else "a pretrained network"
            raise BadInput(f"{file}: holds {what}, which does not segment; give a run of the stage train")
        if plain.get("kind") not in _KINDS.values():
            raise BadInput(f"{file}: not a trained network of this version of hpcseg")
        try:
            config = RunConfig.model_validate_json(plain.pop("config", ""))
        except ValidationError as error:
            first = error.errors()[0]
            raise BadInput(
                f"{file}: its configuration is not one of this version of hpcseg, or of strategies that are here "
                f"({'.'.join(map(str, first['loc'])) or 'content'}: {in_words(first)})"
            ) from None
        try:
            del plain["kind"]
            _require_few(plain)
            model = cls(config=config, **plain)
            _require_sound(model, file)
            with torch.device("meta"):
                new_network(model.config, model.class_count).load_state_dict(model.weights, assign=True)
        except (AttributeError, KeyError, RecursionError, RuntimeError, TypeError, ValueError):
            raise BadInput(f"{file}: its parts do not fit together; copy it again from its run") from None
        require_own(file, model.provenance)
        return model

    def summary(self) -> dict[str, Any]:
        """What there is to know about it, for `hpcseg inspect`."""
        network, preprocessing = self.config.network, self.config.preprocessing
        names = self.class_names or tuple(f"class {index}" for index in range(1, self.class_count + 1))
        values = self.classes or ((),)
        return {
            "kind": "model",
            **self.provenance,
            "network": f"{network.kind}, {network.levels} levels, kernel {network.kernel}",
            "maps": list(network.maps_per_level),
            "parameters": sum(
                weight.numel() for key, weight in self.weights.items() if key.endswith(("weight", "bias"))
            ),
            "patch": self.config.patches.size,
            "spacing_zyx": list(self.spacing_zyx),
            "classes": {name: list(own) or "all but 0" for name, own in zip(names, values, strict=False)},
            "intensity": preprocessing.intensity,
            "window": None if self.window is None else list(self.window),
            "padding": self.padding,
            "pyramid_clip": None if self.pyramid_clip is None else list(self.pyramid_clip),
            "problems": [],
        }


def _require_few(plain: Mapping[str, Any]) -> None:
    """Raise ValueError where lists are longer than those of any model: a mask has 255 classes at most."""
    classes, names = plain.get("classes", ()), plain.get("class_names", ())
    if max(len(classes), len(names), *(len(values) for values in classes), 0) > MOST_CLASSES:
        raise ValueError("more classes than a mask has")
    if not all(value is None or isinstance(value, str | int | float) for value in plain["provenance"].values()):
        raise ValueError("provenance is not made of texts and numbers")  # nested ones may be endless when shown


def _require_sound(model: TrainedModel, file: Path) -> None:
    """Refuse numbers with which a network answers nothing, or asks for memory beyond all measure.

    Raises:
        BadInput: the message names the number.
        ValueError: the weights share their storage, and would need more memory than the file has.
    """
    remedy = "copy it again from its run, or train it anew"
    lengths = {"spacing": model.spacing_zyx, "padding": (model.padding,), "window": model.window}
    for name, values in (lengths | {"pyramid_clip": model.pyramid_clip}).items():
        numbers = [value for value in values or () if not isinstance(value, str)]
        if not all(math.isfinite(value) for value in numbers):
            raise BadInput(f"{file}: {name} is {_listed(numbers)}, not finite; {remedy}")
    if not all(SMALLEST_MM <= mm <= LARGEST_MM for mm in model.spacing_zyx):
        raise BadInput(f"{file}: spacing is {_listed(model.spacing_zyx)} mm, which no scan has; {remedy}")
    for name, weight in model.weights.items():
        if weight.is_floating_point() and not bool((weight.abs() <= LARGEST_WEIGHT).all()):
            raise BadInput(f"{file}: weights of {name} are no numbers, or beyond all measure; {remedy}")
    if sum(weight.nbytes for weight in model.weights.values()) > file.stat().st_size:
        raise ValueError("weights share their storage")


def _listed(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)


def require_own(file: Path, made: Mapping[str, Any]) -> None:
    """Compare what a model in a run directory says of its run with the `run.json` beside it, if there is one.

    Models of earlier versions say less, or nothing.

    Raises:
        BadInput: it is of another run.
    """
    if not (file.parent / RUN_FILE).exists():
        return
    try:
        spec = read_spec(file.parent)
    except BadInput:
        return  # whoever does what it says complains; a model needs none of it
    if made.get("run", spec.id) != spec.id or made.get("run_digest", digest := spec_digest(spec)) != digest:
        raise BadInput(
            f"{file}: is the model of {made.get('run')}, and not of the run.json beside it; put the run's own there, "
            f"or delete {file.parent} and run the sweep again"
        )


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _class_names(spec: TrainSpec) -> tuple[str, ...]:
    """What the dataset of the run's scans calls its classes; () where there is no description beside the scans."""
    try:
        root = spec.validation_scans[0].image.parents[1]
        labels = open_dataset(root, files_must_exist=False).labels
    except (BadInput, IndexError, OSError):
        return ()
    groups = spec.classes or (tuple(value for value in sorted(labels) if value),)
    return tuple(" + ".join(labels.get(value, f"label {value}") for value in group) for group in groups)
