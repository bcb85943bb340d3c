"""The stages that train: the autoencoder of one level, the F-Net of one run; each from its run directory alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hpcseg.config import RunConfig
from hpcseg.files import write_json
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.patches.source import Source
from hpcseg.patches.tiers import AS_IT_COMES, Reading
from hpcseg.spec import PretrainSpec, TrainSpec, runs_root
from hpcseg.training.checkpoint import load_tensors, remove_checkpoints, save_tensors
from hpcseg.training.control import Control
from hpcseg.training.loop import Progress, Task, fit
from hpcseg.training.model import MODEL, TrainedModel, new_network
from hpcseg.training.precision import pick_device
from hpcseg.training.stores import Stores
from hpcseg.training.tasks import AutoencoderTask, MultitaskTask, SegmentationTask
from hpcseg.training.transfer import parameter_groups, transfer

TRAINING_FILE = "training.json"
_AUTOENCODER_SEED = 1 << 32  # keeps the autoencoders' random weights apart from the F-Net's


def pretrain(run: Path, spec: PretrainSpec, control: Control, reading: Reading = AS_IT_COMES) -> None:
    """Train the autoencoder of one level and leave it in `model.pt`; `reading` says how its stores are read.

    Raises:
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: the loss is not a number.
    """
    control.beat(phase="reading")
    device = pick_device()
    with ExitStack() as stack:
        stores = Stores(runs_root(run), stack, spec.sources, reading, control, _gpu(spec.config, device))
        window = stores.window(spec.config.preprocessing, spec.statistics)
        sources = stores.sources(spec.config.preprocessing, spec.sources, window)
        network = _new_autoencoder(spec.config, spec.level)
        task = AutoencoderTask(spec.config, spec.level, network, sources, device)
        progress = fit(task, run, control, spec.config.training)
    save_tensors(run / MODEL, {"kind": "hpcseg-autoencoder 1", "level": spec.level, "weights": progress.best_weights})
    write_json(run / TRAINING_FILE, _summary(progress, task, stores))
    remove_checkpoints(run)


def train(run: Path, spec: TrainSpec, control: Control, reading: Reading = AS_IT_COMES) -> None:
    """Train the F-Net of one run by its strategy and leave it in `model.pt`; a trained run is left as it is.

    `reading` says how its stores are read.

    Raises:
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: a loss is not a number.
    """
    if (run / TRAINING_FILE).exists():
        return
    control.beat(phase="reading")
    device = pick_device()
    with ExitStack() as stack:
        refs = (spec.labelled, spec.validation, *spec.autoencoder_sources)
        stores = Stores(runs_root(run), stack, refs, reading, control, _gpu(spec.config, device))
        preprocessing = spec.config.preprocessing
        window = stores.window(preprocessing, spec.labelled)
        labelled = stores.sources(preprocessing, [spec.labelled], window)
        validation = stores.sources(preprocessing, [spec.validation], window)
        unlabelled = stores.sources(preprocessing, spec.autoencoder_sources, window)
        task = _task(run, spec, labelled, validation, unlabelled, device)
        progress = fit(task, run, control, spec.config.training)
    TrainedModel.of(spec, window, progress.best_weights).save(run / MODEL)
    write_json(run / TRAINING_FILE, _summary(progress, task, stores))


def _task(
    run: Path,
    spec: TrainSpec,
    labelled: list[Source],
    validation: list[Source],
    unlabelled: list[Source],
    device: torch.device,
) -> SegmentationTask:
    config = spec.config
    network = new_network(config, max(len(spec.classes), 1), torch.Generator().manual_seed(config.seed))
    if config.strategy == "multitask":
        autoencoders = [_new_autoencoder(config, level, network) for level in range(config.multitask.levels)]
        return MultitaskTask(config, network, autoencoders, labelled, validation, unlabelled, device)
    groups = [{"params": list(network.parameters()), "lr": config.training.learning_rate}]
    if config.strategy == "transfer":
        models = [load_tensors(runs_root(run) / path)["weights"] for path in spec.pretrained]
        prefix = "encoder."
        encoders = [{name.removeprefix(prefix): w for name, w in m.items() if name.startswith(prefix)} for m in models]
        write_json(run / "transfer.json", transfer(config, network, encoders))
        groups = parameter_groups(config, network)
    return SegmentationTask(config, network, groups, labelled, validation, device)


def _new_autoencoder(config: RunConfig, level: int, network: FNet | None = None) -> WTAutoencoder:
    """A fresh autoencoder of one level; with `network`, on that network's convolutions."""
    return WTAutoencoder(
        config.network.kernel,
        config.network.maps_per_level[level],
        config.autoencoder.winners,
        config.network.init_gain,
        encoder=None if network is None else network.encoder(level).twin(),
        generator=torch.Generator().manual_seed(_AUTOENCODER_SEED * (level + 1) + config.seed),
    )


def _gpu(config: RunConfig, device: torch.device) -> torch.device | None:
    """Where volumes may be resident: on a GPU, unless patches are interpolated from them, which the host does."""
    return device if device.type == "cuda" and not config.augmentation.enabled else None


def _summary(progress: Progress, task: Task, stores: Stores) -> dict[str, Any]:
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch + 1,
        "steps": progress.epoch * task.steps,
        "seconds": round(progress.seconds, 3),
        "reading": [line.as_json() for line in stores.report],
    }
