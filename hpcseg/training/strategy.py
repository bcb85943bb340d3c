"""What hpcseg asks of a strategy: all that planning, running and reporting a run depend on, in one class.

Importing it needs no torch, nor do the strategies themselves (`hpcseg.training.strategies`): torch is imported where a
run is trained. docs/strategies.md shows a strategy of another package.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from hpcseg.config import AutoencoderConfig, RunConfig
from hpcseg.errors import BadInput
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.registry import described, names
from hpcseg.sections import Section
from hpcseg.spec import LabelSpec, PretrainSpec, TrainSpec
from hpcseg.training.task import Inputs, Task

SectionT = TypeVar("SectionT", bound=Section)

# Of the autoencoders' section, what says where patches of unlabelled volumes lie: for whichever network reads them.
_PLACES = {"sampling", "sigma", "inside", "with_supplementary"}
AUTOENCODERS_ONLY = frozenset(f"autoencoder.{name}" for name in AutoencoderConfig.model_fields.keys() - _PLACES)


@dataclass(frozen=True)
class Needs:
    """What a run needs besides its labelled and validation cases.

    Attributes:
        autoencoders: levels whose autoencoder is trained before, finest first; the run waits for them.
        network: whether a network of its own is trained before (`Strategy.pretraining`); the run waits for it.
        unlabelled: whether it reads the volumes that autoencoders see while it trains.
        pseudo_labels: whether other runs (`Strategy.parents`) label those that have no labels; the run waits for both.
        held_out: whether the validation images are among these volumes; None: as the autoencoders' section says.
    """

    autoencoders: tuple[int, ...] = ()
    network: bool = False
    unlabelled: bool = False
    pseudo_labels: bool = False
    held_out: bool | None = None

    @property
    def sees_unlabelled(self) -> bool:
        """Whether volumes without labels are read for it, before or while it trains."""
        return bool(self.levels) or self.unlabelled or self.pseudo_labels

    @property
    def levels(self) -> tuple[int | None, ...]:
        """What is trained before: autoencoders by their levels, and None for a network of the strategy's own."""
        return (*self.autoencoders, *((None,) if self.network else ()))


class Strategy(ABC, Generic[SectionT]):
    """One way to train a segmentation network.

    Attributes:
        name: in sweep files, ids and results; its section of the configuration has the same.
        label: in tables, figures and the report.
        order: place in tables, and among colours and markers; those of other packages follow hpcseg's own.
        section_type: its keys; `Section` where it has none.
        networks: values of `network.kind` that it trains.
        free_keys: of its section, those that change what is learnt, and not what a step costs.
        pretraining_keys: of its section, those that a pretraining of its own reads.
        paper_hours: of five folds on one GTX 1080 Ti (paper, 5.5); None where the paper has none.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    order: ClassVar[int] = 100
    section_type: type[SectionT]
    networks: ClassVar[Collection[str]] = ("fnet", "unet")
    free_keys: ClassVar[frozenset[str]] = frozenset()
    pretraining_keys: ClassVar[frozenset[str]] = frozenset()
    paper_hours: ClassVar[float | None] = None

    @abstractmethod
    def task(self, inputs: Inputs) -> Task:
        """What is trained; called in the job. Here torch may be imported."""

    def pretraining(self, inputs: Inputs) -> Task:
        """What is trained before, on `inputs.unlabelled`, where `needs` says so; its length is the autoencoders'."""
        raise NotImplementedError(f"strategy '{self.name}' has no pretraining of its own")

    def section(self, config: RunConfig) -> SectionT:
        """Its section of a run's configuration."""
        found = (config.model_extra or {}).get(self.name)
        return found if isinstance(found, self.section_type) else self._default

    @functools.cached_property
    def _default(self) -> SectionT:
        return self.section_type()

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where keys do not go together; the message begins with the key to blame."""

    def needs(self, config: RunConfig) -> Needs:
        """What a run needs besides its labelled and validation cases."""
        return Needs()

    def parents(self, config: RunConfig) -> tuple[RunConfig, ...]:
        """The runs whose networks label the unlabelled volumes, by the average of their probabilities.

        They are planned like any other; `needs` says whether there are any.
        """
        return ()

    def confidence(self, config: RunConfig) -> float:
        """Least probability of a class that the parents' networks may give a voxel as its label."""
        return 0.0

    def unused(self, config: RunConfig) -> frozenset[str]:
        """Dotted keys and whole sections that a run does not read: they are no part of its identity."""
        return frozenset() if self.needs(config).sees_unlabelled else frozenset({"autoencoder"})

    def resolved(self, config: RunConfig) -> Mapping[str, Any]:
        """Keys of its section whose value in a run's identity is another than the configured one."""
        return {}

    def batches(self, config: RunConfig) -> Mapping[str, int]:
        """Patches of the minibatches of a training step, by the key that sets their number."""
        return {"training.batch": config.training.batch}

    def comparing_key(self, config: RunConfig) -> str:
        """The key that makes patches of a minibatch compete, which ranks cannot share; "" where they do not."""
        return ""


def strategy_of(config: RunConfig) -> Strategy[Any]:
    """The strategy of a run."""
    return find_strategy(config.strategy)


def find_strategy(name: str) -> Strategy[Any]:
    """The strategy of this name.

    Raises:
        BadInput: there is none, or it cannot be used.
    """
    found = described(name)
    if not isinstance(found, Strategy):
        raise BadInput(f"strategy '{name}' is no hpcseg.training.strategy.Strategy; repair the package that brings it")
    return found


@functools.cache
def strategies() -> Mapping[str, Strategy[Any]]:
    """All strategies by name, in the order of tables and figures.

    Raises:
        BadInput: one of another package cannot be used.
    """
    return {one.name: one for one in sorted(map(find_strategy, names()), key=lambda one: (one.order, one.name))}


def part_of_batch(batch: int, share: float) -> int:
    """Patches of a minibatch that come from other volumes than the labelled ones: rounded down, at least one.

    >>> part_of_batch(4, 0.5), part_of_batch(5, 0.5), part_of_batch(4, 0.1)
    (2, 2, 1)
    """
    return max(1, int(share * batch + 1e-9))


def require_two_patches(config: RunConfig) -> None:
    """Raise ValueError where a minibatch cannot be shared by labelled volumes and others."""
    if config.training.batch < 2:
        raise ValueError(
            f"training.batch = {config.training.batch}: strategy '{config.strategy}' shares it; give 2 or more"
        )


def require_winners(config: RunConfig, levels: Iterable[int]) -> None:
    """Raise ValueError where the autoencoder of one of the levels has fewer voxels in its code than are to win."""
    geometry = FovealGeometry(config.patches.size, config.network.kernel, config.network.levels)
    least = min(geometry.features[level] for level in levels) ** 3
    if config.autoencoder.winners > least:
        raise ValueError(
            f"autoencoder.winners = {config.autoencoder.winners}: the smallest code of an autoencoder has {least} "
            "voxels; lower it"
        )


def check_shares(spec: PretrainSpec | LabelSpec | TrainSpec, world: int) -> None:
    """Refuse runs whose minibatches `world` processes cannot share with the outcome of one.

    Raises:
        BadInput: a minibatch has fewer patches than there are processes, or its patches are compared with each other.
    """
    if world == 1 or isinstance(spec, LabelSpec):
        return
    config = spec.config
    if isinstance(spec, PretrainSpec):
        batches: Mapping[str, int] = {"autoencoder.batch": config.autoencoder.batch}
        comparing = "autoencoder.lifetime" if spec.level is not None and config.autoencoder.lifetime > 0 else ""
    else:
        strategy = strategy_of(config)
        batches = {"training.batch": config.training.batch, **strategy.batches(config)}  # the first one validates
        comparing = strategy.comparing_key(config)
    for key, batch in batches.items():
        if batch < world:
            raise BadInput(
                f"{spec.id}: {key} = {batch} cannot be shared by {world} ranks; "
                f"let the job profile give a {spec.stage} job at most {batch} GPUs"
            )
    if comparing:
        raise BadInput(
            f"{spec.id}: {comparing} compares all patches of a minibatch, which {world} ranks share; "
            f"let the job profile give a {spec.stage} job one GPU"
        )
