"""Every strategy, and pretraining, may see its patches moved, turned and scaled; the outcome stays pure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.config import AugmentationConfig
from hpcseg.paths import MODEL_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.control import Control
from hpcseg.training.stages import train


def augmented(spec: Any) -> Any:
    config = spec.config.model_copy(update={"augmentation": AugmentationConfig(enabled=True, translation=4)})
    return spec.model_copy(update={"config": config})


def weights(runs: Path, name: str, spec: PretrainSpec | TrainSpec) -> dict[str, torch.Tensor]:
    run = runs / spec.stage / name
    run.mkdir(parents=True)
    if isinstance(spec, PretrainSpec):
        train(run, spec, Control(run))
    else:
        train(run, spec, Control(run))
    found: dict[str, torch.Tensor] = load_tensors(run / MODEL_FILE)["weights"]
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("strategy", ["baseline", "transfer", "multitask"])
def test_every_strategy_trains_on_augmented_patches(
    runs: Path,
    train_spec: Callable[..., TrainSpec],
    pretrain_spec: Callable[[int], PretrainSpec],
    tmp_path: Path,
    strategy: str,
) -> None:
    models: tuple[Path, ...] = ()
    if strategy == "transfer":
        for level in (0, 1):
            weights(runs, f"{tmp_path.name}-level{level}", augmented(pretrain_spec(level)))
        models = tuple(Path("pretrain") / f"{tmp_path.name}-level{level}" / MODEL_FILE for level in (0, 1))
    plain = train_spec(strategy, models)
    first = weights(runs, f"{tmp_path.name}-1", augmented(plain))
    assert same(first, weights(runs, f"{tmp_path.name}-2", augmented(plain)))
    assert not same(first, weights(runs, f"{tmp_path.name}-plain", plain))


def test_pretraining_sees_augmented_patches(
    runs: Path, pretrain_spec: Callable[[int], PretrainSpec], tmp_path: Path
) -> None:
    spec = pretrain_spec(1)
    first = weights(runs, f"{tmp_path.name}-1", augmented(spec))
    assert same(first, weights(runs, f"{tmp_path.name}-2", augmented(spec)))
    assert not same(first, weights(runs, f"{tmp_path.name}-plain", spec))
