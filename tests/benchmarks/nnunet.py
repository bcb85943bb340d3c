"""nnU-Net v2 as it comes, on the cases that a run of hpcseg has: its own plan, augmentation and mirrored prediction.

What differs from `nnUNetv2_train DATASET 3d_fullres all -device cpu`: the length. Its polynomial decay runs on the wall
clock and ends with the minutes, and none of them goes into its validation. Its own paths are below the working folder.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.host import usable_cores
from hpcseg.spec import CaseRef, TrainSpec
from hpcseg.volumes.layouts import ENDINGS
from hpcseg.volumes.preprocess import merge_labels
from hpcseg.volumes.scans import read_grid, read_label, write_mask

NUMBER, DATASET = 900, "Dataset900_FewLabels"
CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Trained:
    """What nnU-Net did: its plan in short, iterations, seconds of each part, and masks by case."""

    plan: Mapping[str, Any]
    iterations: int
    preparing_seconds: float
    train_seconds: float
    prediction_seconds: float
    masks: Mapping[str, Path]


def run(spec: TrainSpec, labelled: Iterable[CaseRef], minutes: float, work: Path) -> Trained:
    """Train on the labelled cases for some minutes, then segment the test scans; what is below `work` is replaced."""
    shutil.rmtree(work, ignore_errors=True)
    _set_environment(work)
    scans = list(labelled)
    dataset = _write_raw(spec, scans, work / "raw" / DATASET)
    begin = time.monotonic()
    plans = _prepare()
    prepared = time.monotonic()
    trainer = _trainer(plans, dataset, 60 * minutes)
    trainer.run_training()
    trained = time.monotonic()
    masks = _predict(trainer, spec.test_scans, work / "masks")
    plan = plans["configurations"][CONFIGURATION]
    return Trained(
        plan={key: plan[key] for key in ("patch_size", "batch_size", "spacing")},
        iterations=trainer.iterations,
        preparing_seconds=prepared - begin,
        train_seconds=trainer.seconds,
        prediction_seconds=time.monotonic() - trained,
        masks=masks,
    )


def _set_environment(work: Path) -> None:
    """Before nnunetv2 is imported."""
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(parents=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    import torch

    torch.set_num_threads(usable_cores())


def _write_raw(spec: TrainSpec, labelled: list[CaseRef], folder: Path) -> dict[str, Any]:
    """Its raw data, and dataset.json: images are links, labels have the run's classes as hpcseg merges them."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    ending = next(ending for ending in ENDINGS if labelled[0].image.name.endswith(ending))
    for scan in labelled:
        assert scan.label is not None
        (folder / "imagesTr" / f"{scan.name}_0000{ending}").symlink_to(scan.image.resolve())
        merged_zyx = merge_labels(read_label(scan.label, read_grid(scan.image)), spec.classes)
        write_mask(folder / "labelsTr" / f"{scan.name}{ending}", merged_zyx, like=scan.image)
    dataset = {
        "channel_names": {"0": "MRI" if spec.config.preprocessing.intensity == "zscore" else "CT"},
        "labels": {"background": 0} | {f"class{n}": n for n in range(1, max(len(spec.classes), 1) + 1)},
        "numTraining": len(labelled),
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    return dataset


def _prepare() -> dict[str, Any]:
    """Fingerprint, plan and preprocessing, as `nnUNetv2_plan_and_preprocess -c 3d_fullres`; returns its plan."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    extract_fingerprint_dataset(NUMBER, num_processes=usable_cores(), check_dataset_integrity=True)
    plans, name = plan_experiment_dataset(NUMBER)
    preprocess_dataset(NUMBER, name, (CONFIGURATION,), num_processes=(usable_cores(),))
    return dict(plans)


def _trainer(plans: Mapping[str, Any], dataset: Mapping[str, Any], limit: float) -> Any:
    """Its trainer on all labelled cases, for `limit` seconds of the wall clock."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class WallClockTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no types
        iterations, seconds = 0, 0.0

        def run_training(self) -> None:
            self.on_train_start()
            self.network.train()
            begin = time.monotonic()
            while (share := (time.monotonic() - begin) / limit) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - share) ** 0.9
                self.train_step(next(self.dataloader_train))
                self.iterations += 1
            self.seconds = time.monotonic() - begin
            self.on_train_end()

    plans = {**plans, "continue_training": False}
    return WallClockTrainer(plans, CONFIGURATION, "all", dataset, device=torch.device("cpu"))


def _predict(trainer: Any, scans: Iterable[CaseRef], folder: Path) -> dict[str, Path]:
    """Masks of the scans by its own predictor: half overlapping tiles, Gaussian weights, all mirrored versions."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    folder.mkdir(parents=True)
    chosen = list(scans)
    images, masks = [[str(scan.image)] for scan in chosen], [str(folder / scan.name) for scan in chosen]
    cores = usable_cores()
    predictor.predict_from_files(
        images, masks, num_processes_preprocessing=cores, num_processes_segmentation_export=cores
    )
    return {scan.name: folder / f"{scan.name}{trainer.dataset_json['file_ending']}" for scan in chosen}
