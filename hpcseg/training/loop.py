"""The training loop, the same for every strategy, and resumable after any step.

An epoch is a fixed number of training steps, then a validation. Batches are pure functions of the global step, so the
state of a run is what stands in `Progress`, the weights and the optimizers; nothing else needs saving.

The loop does not wait for a GPU within an epoch: a step's losses are heard of when they arrive (`reports`), and before
anything is concluded from them or saved.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpcseg.config import TrainingConfig
from hpcseg.errors import Interrupted, TrainingError
from hpcseg.files import sync_file, write_text
from hpcseg.paths import HISTORY_FILE
from hpcseg.training.checkpoint import load_checkpoint, save_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.deferred import Reports, StopSign
from hpcseg.training.precision import Precision
from hpcseg.training.ranks import Ranks
from hpcseg.training.schedule import EarlyStop, Plateau
from hpcseg.training.update import Update, restore_optimizer

Weights = dict[str, Tensor]


class Task(ABC):
    """What a strategy gives to the loop.

    Attributes:
        epochs, steps: how many epochs at most, and training steps of each.
        phase: what the user reads while it runs.
        modules: everything that has weights, by name.
        optimizers: by the name of the loss that its plateau watches; the first loss is the one that counts.
        precision: what was decided for the modules.
        update: steps the optimizers.
        ranks: who trains together; losses are those of the minibatches of all.
        pulse: to be called now and then by what takes long; set by the loop.
        graphed: does what `passes` does, from a recording (`hpcseg.training.graphs`); None: `passes` is called.
    """

    epochs: int
    steps: int
    phase: str
    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    precision: Precision
    update: Update
    ranks: Ranks
    pulse: Callable[[], None] | None = None
    graphed: Callable[[Any], dict[str, Tensor]] | None = None

    @property
    @abstractmethod
    def kept(self) -> nn.Module:
        """The module whose best weights are the result."""

    @abstractmethod
    def batches(self, first_step: int) -> Generator[Any]:
        """Training batches from the global step `first_step` on."""

    @abstractmethod
    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """What is to be lowered, and the losses by name; of a training batch."""

    def passes(self, batch: Any) -> dict[str, Tensor]:
        """Forward and backward: returns the losses by name, leaves gradients with the weights."""
        total, losses = self.losses(batch)
        self.update.backward(total)
        return {name: loss.detach() for name, loss in losses.items()}

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of the weights; returns the losses by name, which the next step may overwrite."""
        losses = (self.graphed or self.passes)(batch)
        self.update.step()
        return losses

    def validation_loss(self, epoch: int) -> float | None:
        """Mean loss over the validation batches of `epoch`; None for a task without validation."""
        return None

    def close_epoch(self, epoch: int, means: dict[str, float]) -> None:  # noqa: B027  (a task may leave it)
        """Called with the mean losses of each epoch."""

    def extra_state(self) -> dict[str, float]:
        """Numbers beyond weights and optimizers that a resumed run needs."""
        return {}

    def load_extra_state(self, state: dict[str, float]) -> None:  # noqa: B027  (a task may leave it)
        """Take back what `extra_state` gave."""


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


def fit(task: Task, run: Path, control: Control, config: TrainingConfig) -> Progress:
    """Train until the task's epochs are done or the early stop ends it; `progress.best_weights` is the result.

    Raises:
        Interrupted: a rank was asked to stop; the checkpoint holds the last finished step.
        TrainingError: a loss or a weight is not a finite number; the last checkpoint stays.
    """
    plateaus = {name: Plateau.of(config, o.param_groups[0]["initial_lr"]) for name, o in task.optimizers.items()}
    stop = EarlyStop.of(config)
    progress = _resume(task, run, plateaus, stop)
    keeper = _Keeper(task, run, control, plateaus, stop, progress)
    reports = Reports(task.precision.device, partial(_hear, task, control, progress))
    sign = StopSign(task.ranks)
    task.pulse = control.pulse
    with closing(task.batches(progress.epoch * task.steps + progress.step)) as batches:
        while progress.epoch < task.epochs and not progress.ended:
            while progress.step < task.steps:
                losses = task.training_step(next(batches))
                progress.step += 1
                reports.send(progress.step, losses | task.update.report())
                if sign.up(control.should_stop()):
                    reports.settle()
                    keeper.save()
                    raise Interrupted(f"stopped in epoch {progress.epoch + 1}; the same command goes on from there")
            reports.settle()
            means = {name: math.fsum(values) / len(values) for name, values in progress.losses.items()}
            validation = task.validation_loss(progress.epoch)
            if validation is not None:
                _check(validation, "validation", task, progress.epoch, task.steps)
            for name, plateau in plateaus.items():
                plateau.update(means[name])
                _set_rates(task.optimizers[name], plateau)
            first = next(iter(plateaus.values()))
            ended = validation is not None and stop.update(validation, at_floor=first.at_floor)
            _keep_best(task, progress, config, stop.ema.value if validation is not None else first.ema.value)
            task.close_epoch(progress.epoch, means)
            if task.ranks.leads:
                _record(run, progress.epoch, means, validation, first.rate)
            progress.epoch, progress.step, progress.losses, progress.ended = progress.epoch + 1, 0, {}, ended
            if progress.epoch % config.checkpoint_epochs == 0 or ended or progress.epoch == task.epochs:
                keeper.save()
    return progress


@dataclass
class _Keeper:
    """Saves the run, and knows how long it has been training and what a save costs."""

    task: Task
    run: Path
    control: Control
    plateaus: dict[str, Plateau]
    stop: EarlyStop
    progress: Progress
    since: float = field(default_factory=time.monotonic)

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
        for name, tensor in ((f"{m}.{key}", tensor) for m, state in modules.items() for key, tensor in state.items()):
            if not torch.isfinite(tensor).all():
                raise _diverged(f"{name} is not finite after step {step}", self.task)
        if self.task.ranks.leads:
            self._write(modules, step)
        self.task.ranks.wait()

    def _write(self, modules: dict[str, Weights], step: int) -> None:
        began = time.monotonic()
        if (self.run / HISTORY_FILE).exists():
            sync_file(self.run / HISTORY_FILE)
        size = save_checkpoint(
            self.run,
            {
                "progress": vars(self.progress),
                "modules": modules,
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.task.optimizers.items()},
                "plateaus": {name: plateau.state() for name, plateau in self.plateaus.items()},
                "stop": self.stop.state(),
                "update": self.task.update.state(),
                "extra": self.task.extra_state(),
            },
        )
        seconds = time.monotonic() - began
        self.control.saved(seconds, size)
        self.control.reached(step)
        print(f"checkpoint of step {step} saved in {seconds:.3f} s, {size / 1e6:.1f} MB", flush=True)


def _resume(task: Task, run: Path, plateaus: dict[str, Plateau], stop: EarlyStop) -> Progress:
    state = task.ranks.of_leader(lambda: load_checkpoint(run))
    if task.ranks.leads:
        _cut_history(run, 0 if state is None else state["progress"]["epoch"])
    if state is None:
        task.ranks.align(task.modules)
        return Progress()
    for name, module in task.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, optimizer in task.optimizers.items():
        restore_optimizer(optimizer, state["optimizers"][name])
        plateaus[name].restore(state["plateaus"][name])
    stop.restore(state["stop"])
    task.update.restore(state["update"])
    task.load_extra_state(state["extra"])
    return Progress(**state["progress"])


def _hear(task: Task, control: Control, progress: Progress, step: int, numbers: dict[str, float]) -> None:
    """Take in what a step of the epoch under way reports."""
    task.update.heed(numbers)
    for name, loss in numbers.items():
        _check(loss, name, task, progress.epoch, step)
        progress.losses.setdefault(name, []).append(loss)
    done, loss = progress.epoch * task.steps + step, next(iter(numbers.values()))
    control.beat(phase=task.phase, step=done, steps=task.epochs * task.steps, epoch=progress.epoch + 1, loss=loss)


def _check(loss: float, name: str, task: Task, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"the {name} loss is {loss} in epoch {epoch + 1}, step {step}", task)


def _diverged(what: str, task: Task) -> TrainingError:
    # Scaling the loss keeps gradients within float16's range, not what the networks compute on the way to it.
    half = task.precision.convolutions == "float16"
    remedy = "float16 ends at 65504: set training.precision = 'bfloat16'" if half else "lower the learning rate"
    return TrainingError(f"{what}; the last checkpoint is kept; {remedy}")


def _set_rates(optimizer: torch.optim.Optimizer, plateau: Plateau) -> None:
    for group in optimizer.param_groups:
        group["lr"] = plateau.scaled(group["initial_lr"])


def _keep_best(task: Task, progress: Progress, config: TrainingConfig, value: float | None) -> None:
    if value is not None and (value < progress.best_value or config.select == "last"):
        progress.best_epoch, progress.best_value = progress.epoch, value
        progress.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in task.kept.state_dict().items()}


def _record(run: Path, epoch: int, means: dict[str, float], validation: float | None, rate: float) -> None:
    line = {
        "epoch": epoch + 1,
        "training_loss": next(iter(means.values())),
        "validation_loss": validation,
        "learning_rate": rate,
        "losses": means,
    }
    with (run / HISTORY_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _cut_history(run: Path, epochs: int) -> None:
    path = run / HISTORY_FILE
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(lines[:epochs]))
