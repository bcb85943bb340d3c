"""The stages that train: the autoencoder of one level, the F-Net of one run; each from its run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from hpcseg.config import Pair, PreprocessingConfig, RunConfig
from hpcseg.files import write_json
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.patches.batches import Source
from hpcseg.spec import PretrainSpec, SourceRef, TrainSpec, runs_root
from hpcseg.training.checkpoint import load_tensors, remove_checkpoints, save_tensors
from hpcseg.training.control import Control
from hpcseg.training.loop import Progress, Task, fit
from hpcseg.training.model import MODEL, TrainedModel, new_network
from hpcseg.training.precision import pick_device
from hpcseg.training.tasks import AutoencoderTask, MultitaskTask, SegmentationTask
from hpcseg.training.transfer import parameter_groups, transfer
from hpcseg.volumes.intensities import normalisation, percentile_window
from hpcseg.volumes.store import Store

TRAINING_FILE = "training.json"
_AUTOENCODER_SEED = 1 << 32  # keeps the autoencoders' random weights apart from the F-Net's


def pretrain(run: Path, spec: PretrainSpec, control: Control) -> None:
    """Train the autoencoder of one level and leave it in `model.pt`.

    Raises:
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: the loss is not a number.
    """
    control.beat(phase="reading")
    device = pick_device()
    with ExitStack() as stack:
        stores = _Stores(runs_root(run), stack)
        window = stores.window(spec.config.preprocessing, spec.statistics)
        sources = stores.sources(spec.config.preprocessing, spec.sources, window)
        network = _new_autoencoder(spec.config, spec.level)
        task = AutoencoderTask(spec.config, spec.level, network, sources, device)
        progress = fit(task, run, control, spec.config.training)
    save_tensors(run / MODEL, {"kind": "hpcseg-autoencoder 1", "level": spec.level, "weights": progress.best_weights})
    write_json(run / TRAINING_FILE, _summary(progress, task))
    remove_checkpoints(run)


def train(run: Path, spec: TrainSpec, control: Control) -> None:
    """Train the F-Net of one run by its strategy and leave it in `model.pt`; a trained run is left as it is.

    Raises:
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: a loss is not a number.
    """
    if (run / TRAINING_FILE).exists():
        return
    control.beat(phase="reading")
    with ExitStack() as stack:
        stores = _Stores(runs_root(run), stack)
        preprocessing = spec.config.preprocessing
        window = stores.window(preprocessing, spec.labelled)
        labelled = stores.sources(preprocessing, [spec.labelled], window)
        validation = stores.sources(preprocessing, [spec.validation], window)
        unlabelled = stores.sources(preprocessing, spec.autoencoder_sources, window)
        task = _task(run, spec, labelled, validation, unlabelled)
        progress = fit(task, run, control, spec.config.training)
    TrainedModel.of(spec, window, progress.best_weights).save(run / MODEL)
    write_json(run / TRAINING_FILE, _summary(progress, task))


def _task(
    run: Path, spec: TrainSpec, labelled: list[Source], validation: list[Source], unlabelled: list[Source]
) -> SegmentationTask:
    config, device = spec.config, pick_device()
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


def _summary(progress: Progress, task: Task) -> dict[str, float]:
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch + 1,
        "steps": progress.epoch * task.steps,
        "seconds": round(progress.seconds, 3),
    }


class _Stores:
    """Opens each store once, for as long as `stack` lives."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self._root, self._stack = root, stack
        self._open: dict[Path, Store] = {}

    def _store(self, path: Path) -> Store:
        if path not in self._open:
            self._open[path] = self._stack.enter_context(Store(self._root / path))
        return self._open[path]

    def window(self, config: PreprocessingConfig, labelled: SourceRef) -> Pair | None:
        """Clip window from the foreground of the labelled cases, where the intensity method takes one."""
        if config.intensity != "percentile":
            return None
        store = self._store(labelled.store)
        return percentile_window([store.case(name) for name in labelled.cases], config.percentiles)

    def sources(self, config: PreprocessingConfig, refs: Sequence[SourceRef], window: Pair | None) -> list[Source]:
        """Cases with the normalisation of each."""
        found = []
        for ref in refs:
            store = self._store(ref.store)
            for case in map(store.case, ref.cases):
                codes, counts = case.histogram
                how = normalisation(config, (case.decode(codes), counts), window)
                found.append(Source(case, how, store.pyramid_clip))
        return found
