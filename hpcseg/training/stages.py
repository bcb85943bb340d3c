"""The stages that train: the autoencoder of one level, the network of one run; each from its run directory alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hpcseg.files import write_json
from hpcseg.paths import MODEL_FILE, TRAINING_FILE
from hpcseg.spec import AS_IT_COMES, PretrainSpec, Reading, TrainSpec, runs_root
from hpcseg.training.checkpoint import save_tensors
from hpcseg.training.control import Control
from hpcseg.training.kernel_choice import choose_kernels
from hpcseg.training.loop import Progress, fit
from hpcseg.training.model import TrainedModel
from hpcseg.training.precision import pick_device
from hpcseg.training.ranks import ALONE, Ranks
from hpcseg.training.stores import Stores, around_organ
from hpcseg.training.strategy import strategy_of
from hpcseg.training.task import Inputs, Task
from hpcseg.training.tasks import AutoencoderTask


def pretrain(
    run: Path, spec: PretrainSpec, control: Control, reading: Reading = AS_IT_COMES, ranks: Ranks = ALONE
) -> None:
    """Train the autoencoder of one level and leave it in `model.pt`; a trained one is left as it is.

    `reading` says how its stores are read, `ranks` who trains together.

    Raises:
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: the loss is not a number.
    """
    if ranks.any((run / TRAINING_FILE).exists()):
        return
    control.beat(phase="reading")
    device = pick_device()
    with ExitStack() as stack:
        with ranks.together():
            stores = Stores(runs_root(run), stack, spec.sources, reading, control, _gpu(device))
            window = stores.window(spec.config.preprocessing, spec.statistics)
            sources = stores.sources(spec.config.preprocessing, spec.sources, window)
            labelled = stores.sources(spec.config.preprocessing, [spec.statistics], window)
        if spec.config.autoencoder.sampling == "organ":
            sources = around_organ(run, labelled, sources, control, ranks)
        task = AutoencoderTask(Inputs(spec.config, device, ranks, unlabelled=sources), spec.level)
        chosen = choose_kernels(run, task, control)
        progress = fit(task, run, control, spec.config.training)
    if ranks.leads:
        model = {"kind": "hpcseg-autoencoder 1", "level": spec.level, "weights": progress.best_weights}
        save_tensors(run / MODEL_FILE, model)
        write_json(run / TRAINING_FILE, _summary(progress, task, stores, control) | {"kernels": chosen})
    ranks.wait()


def train(run: Path, spec: TrainSpec, control: Control, reading: Reading = AS_IT_COMES, ranks: Ranks = ALONE) -> None:
    """Train the network of one run by its strategy and leave it in `model.pt`; a trained run is left as it is.

    `reading` says how its stores are read, `ranks` who trains together.

    Raises:
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: a loss is not a number.
    """
    if ranks.any((run / TRAINING_FILE).exists()):
        return
    control.beat(phase="reading")
    device = pick_device()
    with ExitStack() as stack:
        with ranks.together():
            refs = (spec.labelled, spec.validation, *spec.autoencoder_sources)
            stores = Stores(runs_root(run), stack, refs, reading, control, _gpu(device))
            preprocessing = spec.config.preprocessing
            window = stores.window(preprocessing, spec.labelled)
            labelled = stores.sources(preprocessing, [spec.labelled], window)
            validation = stores.sources(preprocessing, [spec.validation], window)
            unlabelled = stores.sources(preprocessing, spec.autoencoder_sources, window)
        if unlabelled and spec.config.autoencoder.sampling == "organ":
            unlabelled = around_organ(run, labelled, unlabelled, control, ranks)
        inputs = Inputs(
            config=spec.config,
            device=device,
            ranks=ranks,
            classes=max(len(spec.classes), 1),
            labelled=labelled,
            validation=validation,
            unlabelled=unlabelled,
            pretrained=[runs_root(run) / path for path in spec.pretrained],
        )
        task = strategy_of(spec.config).task(inputs)
        chosen = choose_kernels(run, task, control)
        progress = fit(task, run, control, spec.config.training)
    if ranks.leads:
        TrainedModel.of(spec, window, progress.best_weights).save(run / MODEL_FILE)
        write_json(run / TRAINING_FILE, _summary(progress, task, stores, control) | {"kernels": chosen})
    ranks.wait()


def _gpu(device: torch.device) -> torch.device | None:
    """Where volumes may be resident."""
    return device if device.type == "cuda" else None


def _summary(progress: Progress, task: Task, stores: Stores, control: Control) -> dict[str, Any]:
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch + 1,
        "steps": progress.epoch * task.steps,
        "seconds": round(progress.seconds, 3),
        "rank_seconds": round(progress.rank_seconds, 3),
        "ranks": task.ranks.world,
        "precision": task.precision.as_json() | {"overflows": task.update.overflows},
        "checkpoint": control.checkpoint,
        "reading": [line.as_json() for line in stores.report],
    }
