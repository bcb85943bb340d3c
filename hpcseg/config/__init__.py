"""What one run is: typed, frozen sections with the paper's values as defaults.

Every key stands here with its meaning, unit and source, as `hpcseg keys` shows them; docs/fidelity.md has the reasons
that are longer than a line. Axes are z, y, x. No key says where files are or what a job may use: that is not part of a
run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hpcseg.config.data import AugmentationConfig, DataConfig, Labels, Pair, PatchesConfig, PreprocessingConfig
from hpcseg.config.training import (
    AutoencoderConfig,
    InferenceConfig,
    MultitaskConfig,
    NetworkConfig,
    TrainingConfig,
    TransferConfig,
)
from hpcseg.sections import Count, Section, key

__all__ = [
    "AugmentationConfig",
    "AutoencoderConfig",
    "DataConfig",
    "InferenceConfig",
    "Labels",
    "MultitaskConfig",
    "NetworkConfig",
    "Pair",
    "PatchesConfig",
    "PreprocessingConfig",
    "RunConfig",
    "TrainingConfig",
    "TransferConfig",
]


class RunConfig(Section):
    """One cell of the study: a strategy, a number of labelled volumes, a fold, a seed, and how everything is done."""

    strategy: Literal["baseline", "transfer", "multitask"] = key(
        "baseline", "how the F-Net is trained: from scratch, S-TL, S-MTL", source="paper 4"
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
    transfer: TransferConfig = TransferConfig()
    multitask: MultitaskConfig = MultitaskConfig()
    inference: InferenceConfig = InferenceConfig()

    @field_validator("labelled", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("give a number of volumes or 'all'")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.fold >= self.data.folds:
            last = self.data.folds - 1
            raise ValueError(f"fold {self.fold} does not exist: data.folds gives folds 0 to {last}")
        if self.network.kind == "unet" and self.strategy != "baseline":
            raise ValueError(
                f"strategy = '{self.strategy}' needs an F-Net: network.kind = 'unet' is trained as baseline only"
            )
        if self.autoencoder.decoder == "cbru" and self.patches.size < self.network.kernel:
            raise ValueError("autoencoder.decoder = 'cbru' needs patches.size of at least network.kernel")
        if self.multitask.levels > self.network.levels:
            raise ValueError(
                f"multitask.levels = {self.multitask.levels} exceeds network.levels = {self.network.levels}"
            )
        return self
