"""The stages that train: the autoencoder of one level, the network of one run; each from its run directory alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcseg.paths import MODEL_FILE, TRAINING_FILE
from hpcseg.seals import write_sealed
from hpcseg.spec import AS_IT_COMES, PretrainSpec, Reading, SourceRef, TrainSpec, runs_root, spec_digest
from hpcseg.training.checkpoint import save_tensors
from hpcseg.training.control import Control
from hpcseg.training.kernel_choice import choose_kernels
from hpcseg.training.loggers import Loggers
from hpcseg.training.loop import Progress, Watching, fit
from hpcseg.training.model import TrainedModel
from hpcseg.training.precision import pick_device
from hpcseg.training.pretrained import start_weights
from hpcseg.training.ranks import ALONE, Ranks
from hpcseg.training.stores import Stores, around_organ
from hpcseg.training.strategy import strategy_of
from hpcseg.training.task import Inputs, Task
from hpcseg.training.tasks import AutoencoderTask

MeasureScans = Callable[[TrainedModel, TrainSpec, Control, Ranks], list[float | None] | None]


def train(
    run: Path,
    spec: PretrainSpec | TrainSpec,
    control: Control,
    reading: Reading = AS_IT_COMES,
    ranks: Ranks = ALONE,
    measure: MeasureScans | None = None,
) -> None:
    """Train an autoencoder, or a network by its strategy, and leave it in `model.pt`; what is trained is left as it is.

    Args:
        run: the run directory.
        spec: of the pretraining or the training run.
        control: shows how far it is, and asks to stop.
        reading: how its stores are read.
        ranks: who trains together.
        measure: gives the DSC of each class in whole validation scans, every `training.dsc_epochs` epochs; None where
            the job was asked to stop meanwhile.

    Raises:
        BadInput: the model that training begins with is missing, damaged, or another one than when it was planned.
        Interrupted: the job was asked to stop; the checkpoint is written.
        StoreError: an ancestor's store is missing or damaged.
        TrainingError: a loss is not a number.
    """
    if ranks.any((run / TRAINING_FILE).exists()):
        return
    control.beat(phase="reading")
    config, root, device = spec.config, runs_root(run), pick_device()
    rest: tuple[tuple[SourceRef, ...], ...]
    if isinstance(spec, PretrainSpec):
        known, rest = spec.statistics, ((), spec.sources, ())
        read = [*spec.sources]
    else:
        known, rest = spec.labelled, ((spec.validation,), spec.autoencoder_sources, spec.pseudo_labelled)
        read = [known, *itertools.chain(*rest)]
    with ExitStack() as stack:
        with ranks.together():
            gpu = device if device.type == "cuda" else None  # where volumes may be resident
            stores = Stores(root, stack, read, reading, control, gpu)
            window = stores.window(config.preprocessing, known)
            labelled, validation, unlabelled, pseudo_labelled = (
                stores.sources(config.preprocessing, refs, window) for refs in ((known,), *rest)
            )
        if unlabelled and config.autoencoder.sampling == "organ":
            unlabelled = around_organ(run, labelled, unlabelled, control, ranks)
        inputs = Inputs(
            *(config, device, ranks),
            labelled=labelled,
            validation=validation,
            unlabelled=unlabelled,
            pseudo_labelled=pseudo_labelled,
            start=start_weights(spec.start) if spec.start is not None else {},
            run=run,
            control=control,
        )
        task: Task
        if isinstance(spec, PretrainSpec):
            task = (
                strategy_of(config).pretraining(inputs) if spec.level is None else AutoencoderTask(inputs, spec.level)
            )
        else:
            models = [root / path for path in spec.pretrained]
            task = strategy_of(config).task(replace(inputs, classes=max(len(spec.classes), 1), pretrained=models))
        chosen = choose_kernels(run, task, control)

        def measured(epoch: int) -> dict[str, Any]:
            every = config.training.dsc_epochs
            if measure is None or isinstance(spec, PretrainSpec) or not every or (epoch + 1) % every:
                return {}
            dsc = measure(TrainedModel.of(spec, window, task.kept.state_dict()), spec, control, ranks)
            return {} if dsc is None else {"validation_dsc": dsc}

        loggers = Loggers(run, spec)
        stack.callback(loggers.close)
        progress = fit(task, run, control, config.training, spec_digest(spec), Watching(measured, loggers.log))
    if ranks.leads:
        if isinstance(spec, PretrainSpec):
            made: dict[str, Any] = {"strategy": config.strategy} if spec.level is None else {"level": spec.level}
            kind = "hpcseg-autoencoder 1" if spec.level is not None else "hpcseg-pretrained 1"
            made |= {"run": spec.id, "run_digest": spec_digest(spec)}
            model = {"kind": kind, **made, "weights": progress.best_weights}
            save_tensors(run / MODEL_FILE, model)
        else:
            TrainedModel.of(spec, window, progress.best_weights).save(run / MODEL_FILE)
        write_sealed(run / TRAINING_FILE, _summary(progress, task, stores, control) | {"kernels": chosen})
    ranks.wait()


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
