"""The training loop, the same for every strategy, and resumable after any step.

An epoch is a fixed number of training steps, then a validation. Batches are pure functions of the global step, so the
state of a run is what stands in `Progress`, the weights and the optimizers; nothing else needs saving.

The loop does not wait for a GPU within an epoch: a step's losses are recorded when they arrive (`DeferredLosses`), and
before anything is concluded from them or saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpcseg.config import TrainingConfig
from hpcseg.errors import BadInput, Interrupted, TrainingError
from hpcseg.files import sync_file
from hpcseg.host import old_objects_left_alone
from hpcseg.paths import CHECKPOINT_FILE, HISTORY_FILE, RUN_FILE
from hpcseg.training.checkpoint import load_checkpoint, save_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.deferred import DeferredLosses, StopFlag
from hpcseg.training.history import append_record, class_mean, cut_history, epoch_line, epoch_record
from hpcseg.training.schedule import Schedule
from hpcseg.training.task import Task
from hpcseg.training.update import restore_optimizer
from hpcseg.training.weights import Weights, copied, first_not_finite, on_host


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    step: int = 0  # within the epoch
    losses: dict[str, list[float]] = field(default_factory=dict)  # of the epoch under way
    best_epoch: int = -1
    best_value: float = math.inf
    best_weights: Weights = field(default_factory=dict)
    ended: bool = False
    seconds: float = 0.0  # spent in training by all attempts
    rank_seconds: float = 0.0  # the same, times the ranks of each


@dataclass(frozen=True)
class Watching:
    """What watches a training, and changes nothing of it.

    Attributes:
        measure: called with each epoch, from 0, after its validation; returns what `history.jsonl` gets of it.
        log: called by rank 0 with what `history.jsonl` got of an epoch.
    """

    measure: Callable[[int], dict[str, Any]] = lambda epoch: {}
    log: Callable[[Mapping[str, Any]], None] = lambda record: None


UNWATCHED = Watching()


def fit(
    task: Task,
    run: Path,
    control: Control,
    config: TrainingConfig,
    digest: str = "",
    watching: Watching = UNWATCHED,
) -> Progress:
    """Train until the task's epochs are done or the early stop ends it; `progress.best_weights` is the result.

    Checkpoints are saved with `digest`, that of `run.json`, and only those are taken up that have the same or none.

    Raises:
        Interrupted: a rank was asked to stop; the checkpoint holds the last finished step.
        TrainingError: a loss or a weight is not a finite number; the last checkpoint stays.
    """
    schedule = Schedule(config, task.optimizers, task.epochs)
    progress = _resume(task, run, schedule, digest)
    checkpointer = Checkpointer(task, run, control, schedule, progress, config, digest)
    losses = DeferredLosses(task.precision.device, partial(_record_step, task, control, progress))
    stop = StopFlag(task.ranks)
    task.pulse = control.pulse
    with old_objects_left_alone(), closing(task.batches(progress.epoch * task.steps + progress.step)) as batches:
        while progress.epoch < task.epochs and not progress.ended:
            began = time.monotonic()
            while progress.step < task.steps:
                found = task.train_step(next(batches))
                progress.step += 1
                losses.send(progress.step, found | task.update.scale())
                if stop.raised(control.should_stop()):
                    losses.flush()
                    checkpointer.save()
                    raise Interrupted(f"stopped in epoch {progress.epoch + 1}; the same command goes on from there")
                if task.ranks.world == 1 and progress.step < task.steps and checkpointer.is_late():
                    losses.flush()
                    checkpointer.save()
            losses.flush()
            means = {name: math.fsum(values) / len(values) for name, values in progress.losses.items()}
            validation = task.validation_loss(progress.epoch)
            if validation is not None:
                _require_finite(validation, "validation", task, progress.epoch, task.steps)
            progress.ended = schedule.on_epoch_end(means, validation)
            _keep_best(task, progress, config, schedule.watched)
            measured = task.measure(progress.epoch) | watching.measure(progress.epoch)
            task.on_epoch_end(progress.epoch, means)
            record = epoch_record(progress.epoch, means, validation, schedule.rate, measured)
            control.validated(class_mean(record, "validation_dice"))
            if (dsc := class_mean(record, "validation_dsc")) is not None:
                control.measured(dsc)
            if task.ranks.leads:
                append_record(run, record)
                watching.log(record)
                print(epoch_line(record, task.epochs, time.monotonic() - began, control.eta_s), flush=True)
            progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, {}
            if progress.ended or progress.epoch == task.epochs or checkpointer.is_due():
                checkpointer.save()
    progress.best_weights = on_host(progress.best_weights)
    return progress


@dataclass
class Checkpointer:
    """Saves the run when it is time to, and knows how long it has been training and what a save costs."""

    task: Task
    run: Path
    control: Control
    schedule: Schedule
    progress: Progress
    config: TrainingConfig
    digest: str
    since: float = field(default_factory=time.monotonic, init=False)  # the last save, or the beginning

    def is_late(self) -> bool:
        """Whether `training.checkpoint_seconds` have passed; ranks do not agree on that."""
        return time.monotonic() - self.since >= self.config.checkpoint_seconds

    def is_due(self) -> bool:
        """Whether to save after the epoch that has just ended; the same on all ranks."""
        every, ranks = self.config.checkpoint_epochs, self.task.ranks
        if every and self.progress.epoch % every == 0:
            return True
        return ranks.any(ranks.leads and self.is_late())

    def save(self) -> None:
        """Write a checkpoint of the last finished step, after the history that belongs to it; all ranks wait for it.

        Raises:
            TrainingError: a weight is not a finite number; nothing was written.
        """
        now = time.monotonic()
        self.progress.seconds += now - self.since
        self.progress.rank_seconds += (now - self.since) * self.task.ranks.world
        self.since = now
        modules = {name: module.state_dict() for name, module in self.task.modules.items()}
        step = self.progress.epoch * self.task.steps + self.progress.step
        weights = {f"{name}.{key}": tensor for name, state in modules.items() for key, tensor in state.items()}
        if (spoilt := first_not_finite(weights)) is not None:
            raise _diverged(f"{spoilt} is not finite after step {step}", self.task)
        if self.task.ranks.leads:
            self._write(modules, step, now)
        self.task.ranks.wait()

    def _write(self, modules: dict[str, Weights], step: int, began: float) -> None:
        if (self.run / HISTORY_FILE).exists():
            sync_file(self.run / HISTORY_FILE)
        size = save_checkpoint(
            self.run,
            {
                **({RUN_FILE: self.digest} if self.digest else {}),
                "progress": vars(self.progress) | {"best_weights": on_host(self.progress.best_weights)},
                "modules": modules,
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.task.optimizers.items()},
                **self.schedule.state(),
                "update": self.task.update.state(),
                "extra": self.task.extra_state(),
            },
        )
        seconds = time.monotonic() - began
        self.control.saved(seconds, size)
        self.control.reached(step)
        print(f"checkpoint of step {step} saved in {seconds:.3f} s, {size / 1e6:.1f} MB", flush=True)


def _resume(task: Task, run: Path, schedule: Schedule, digest: str) -> Progress:
    """Take up the newest checkpoint; a new run begins with the weights of rank 0 on all ranks.

    Raises:
        BadInput: none of them is sound, or the newest does not fit the run.
    """
    state = task.ranks.of_leader(lambda: load_checkpoint(run, digest))
    if state is None:
        task.ranks.align(task.modules)
        progress = Progress()
    else:
        try:
            progress = _restore(task, schedule, state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                raise
            why = " ".join(str(error).split())[:120]
            raise BadInput(
                f"{run / CHECKPOINT_FILE}: does not fit the run ({why}); delete {run} and run the sweep again"
            ) from None
    if task.ranks.leads:
        cut_history(run, progress.epoch)
    return progress


def _restore(task: Task, schedule: Schedule, state: Mapping[str, Any]) -> Progress:
    """Take back what a checkpoint has.

    Raises:
        Exception: of the kinds that `_resume` expects: it is of other networks, or made on purpose.
    """
    progress = Progress(**state["progress"])
    if not all(type(number) is int for number in (progress.epoch, progress.step, progress.best_epoch)):
        raise TypeError("epochs and steps are no whole numbers")
    if not all(isinstance(weight, Tensor) for weight in progress.best_weights.values()):
        raise TypeError("the best weights are no tensors")
    for name, module in task.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, optimizer in task.optimizers.items():
        restore_optimizer(optimizer, state["optimizers"][name])
    schedule.restore(state)
    task.update.restore(state["update"])
    task.load_extra_state(state["extra"])
    return progress


def _record_step(task: Task, control: Control, progress: Progress, step: int, numbers: dict[str, float]) -> None:
    """Add the losses of a step of the epoch under way."""
    task.update.check_scale(numbers)
    for name, loss in numbers.items():
        _require_finite(loss, name, task, progress.epoch, step)
        progress.losses.setdefault(name, []).append(loss)
    done, loss = progress.epoch * task.steps + step, next(iter(numbers.values()))
    control.beat(phase=task.phase, step=done, steps=task.epochs * task.steps, epoch=progress.epoch + 1, loss=loss)


def _require_finite(loss: float, name: str, task: Task, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"the {name} loss is {loss} in epoch {epoch + 1}, step {step}", task)


def _diverged(what: str, task: Task) -> TrainingError:
    # Scaling the loss keeps gradients within float16's range, not what the networks compute on the way to it.
    half = task.precision.convolutions == "float16"
    remedy = "float16 ends at 65504: set training.precision = 'bfloat16'" if half else "lower the learning rate"
    return TrainingError(f"{what}; the last checkpoint is kept; {remedy}")


def _keep_best(task: Task, progress: Progress, config: TrainingConfig, value: float | None) -> None:
    if value is not None and (value < progress.best_value or config.select == "last"):
        progress.best_epoch, progress.best_value = progress.epoch, value
        # They stay on their device: of a GPU nobody waits for them until they are saved.
        progress.best_weights = copied(task.kept.state_dict())
