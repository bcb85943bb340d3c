"""What one run is: typed, frozen sections with the paper's values as defaults.

Every key stands here with its meaning, unit and source, as `hpcseg keys` shows them; docs/fidelity.md has the reasons
that are longer than a line. Axes are z, y, x. No key says where files are or what a job may use: that is not part of a
run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, create_model, field_validator, model_validator

from hpcseg import registry
from hpcseg.config.data import AugmentationConfig, DataConfig, Labels, Pair, PatchesConfig, PreprocessingConfig
from hpcseg.config.training import (
    AutoencoderConfig,
    InferenceConfig,
    LoggingConfig,
    NetworkConfig,
    TrainingConfig,
)
from hpcseg.errors import BadInput
from hpcseg.sections import Count, Group, OneOf, Section, groups_of, key

__all__ = [
    "AugmentationConfig",
    "AutoencoderConfig",
    "DataConfig",
    "InferenceConfig",
    "Labels",
    "LoggingConfig",
    "NetworkConfig",
    "Pair",
    "PatchesConfig",
    "PreprocessingConfig",
    "RunConfig",
    "TrainingConfig",
]


class RunConfig(Section):
    """One cell of the study: a strategy, a number of labelled volumes, a fold, a seed, and how everything is done."""

    model_config = ConfigDict(extra="allow")  # the sections of strategies, each a `Section`; see `_with_sections`

    strategy: Annotated[str, OneOf(registry.names)] = key(
        registry.REFERENCE,
        "how the network is trained: from scratch, S-TL, S-MTL, or as another package says",
        source="paper 4",
    )
    labelled: Count | Literal["all"] = key(
        "all", "labelled training volumes; smaller subsets lie in larger ones", unit="volumes", source="paper 2.3"
    )
    fold: Annotated[int, Field(ge=0)] = key(
        0,
        "whose cases are the validation set",
        unit="fold, from 0",
        source="paper 2.3; which one tables 1 to 6 used is open",
    )
    seed: int = key(0, "seed of weights and patches: all that is drawn follows from it", source="ours: repeatable")
    data: DataConfig = DataConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    patches: PatchesConfig = PatchesConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    inference: InferenceConfig = InferenceConfig()
    logging: LoggingConfig = LoggingConfig()

    @field_validator("labelled", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("give a number of volumes or 'all'")
        return value

    @model_validator(mode="before")
    @classmethod
    def _with_sections(cls, values: Any) -> Any:
        """Read what is no key of its own as sections of strategies; that of the run's strategy is always there."""
        if not isinstance(values, Mapping):
            return values
        known = registry.names()
        made = dict(values)
        strategy = made.get("strategy", registry.REFERENCE)
        for name in made.keys() - cls.model_fields.keys():
            if name == strategy and name not in known:
                del made[name]  # the strategy is what is wrong
                continue
            holder = _holder(name) if name in known else Section  # which refuses it as a key that it does not know
            made[name] = getattr(holder.model_validate({name: made[name]}), name)
        if strategy in known and strategy not in made and _section_type(strategy).model_fields:
            made[strategy] = getattr(_holder(strategy)(), strategy)
        return made

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.fold >= self.data.folds and not self.data.splits:  # which may have another number of them
            last = self.data.folds - 1
            raise ValueError(f"fold {self.fold} does not exist: data.folds gives folds 0 to {last}; change either")
        if self.autoencoder.decoder == "cbru" and self.patches.size < self.network.kernel:
            raise ValueError("autoencoder.decoder = 'cbru' needs patches.size of at least network.kernel")
        strategy = registry.described(self.strategy)
        if self.network.kind not in strategy.networks:
            takes = " or ".join(map(repr, strategy.networks))
            raise ValueError(f"network.kind = '{self.network.kind}': strategy '{self.strategy}' trains {takes} only")
        strategy.check(self)
        return self


def sections() -> dict[str, type[Section]]:
    """Every section of a run's configuration by its name, those of all strategies last.

    Raises:
        BadInput: a strategy cannot be used.
    """
    found = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    own = {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Section)}
    return own | {name: kind for name in registry.names() if (kind := _section_type(name)).model_fields}


def key_groups() -> Iterator[Group]:
    """Every key of a run, by section."""
    yield from groups_of(RunConfig)
    for name, kind in sections().items():
        if name not in RunConfig.model_fields:
            yield from groups_of(kind, name)


@functools.cache
def _section_type(strategy: str) -> type[Section]:
    if strategy in RunConfig.model_fields:
        raise BadInput(f"a strategy cannot be called '{strategy}', which is a key of hpcseg; rename it in its package")
    return registry.described(strategy).section_type


@functools.cache
def _holder(strategy: str) -> type[Section]:
    """A section that holds that of a strategy under its name, so that errors name the whole key."""
    kind = _section_type(strategy)
    if not kind.model_fields:
        return Section
    fields: dict[str, Any] = {strategy: (kind, kind())}
    return create_model("Holder", __base__=Section, **fields)
