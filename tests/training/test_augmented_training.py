"""Every strategy, and pretraining, may see its patches moved, turned and scaled; the outcome stays pure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.config import AugmentationConfig
from hpcseg.patches import batches
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.paths import MODEL_FILE
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.control import Control
from hpcseg.training.stages import train
from tests.training.conftest import RECIPE


def augmented(spec: Any, **changes: Any) -> Any:
    augmentation = AugmentationConfig.model_validate({"enabled": True, "translation": 4, **changes})
    return spec.model_copy(update={"config": spec.config.model_copy(update={"augmentation": augmentation})})


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
            name = f"{tmp_path.name}-level{level}"
            weights(runs, name, augmented(pretrain_spec(level)).model_copy(update={"id": name}))
            models += (Path("pretrain") / name / MODEL_FILE,)
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


def test_each_change_of_the_recipe_changes_what_is_learnt_and_is_pure(
    runs: Path, train_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    plain = weights(runs, f"{tmp_path.name}-plain", augmented(train_spec()))
    for name in ("mirror", "elastic", "brightness", "contrast", "gamma", "noise", "blur"):
        share = {"elastic_spacing": 8.0, "intensity_share": 1.0}
        spec = augmented(train_spec(), **share, **{name: RECIPE["augmentation"][name]})
        first, second = (weights(runs, f"{tmp_path.name}-{name}-{turn}", spec) for turn in (1, 2))
        assert same(first, second), name
        assert not same(first, plain), name


def test_patches_of_validation_are_never_changed(
    runs: Path, train_spec: Callable[..., TrainSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[int, AugmentationConfig | None] = {}

    class Watched(batches.SegmentationBatches):
        def __init__(self, sources: Any, geometry: Any, draw: Draw, *, foreground_share: float) -> None:
            super().__init__(sources, geometry, draw, foreground_share=foreground_share)
            drawn[draw.stream] = draw.augmentation

    monkeypatch.setattr(batches, "SegmentationBatches", Watched)
    spec = augmented(train_spec(), noise=0.1)
    weights(runs, f"{tmp_path.name}-watched", spec)
    assert drawn == {Stream.TRAINING: spec.config.augmentation, Stream.VALIDATION: None}
