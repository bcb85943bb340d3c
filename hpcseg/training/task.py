"""What a strategy gets, and what it gives to the training loop; importing it needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from hpcseg.config import RunConfig
    from hpcseg.patches.source import Source
    from hpcseg.training.control import Control
    from hpcseg.training.precision import Precision
    from hpcseg.training.ranks import Ranks
    from hpcseg.training.update import Update


@dataclass(frozen=True)
class Inputs:
    """What a task is made from.

    Attributes:
        config: of the run.
        device: that trains.
        ranks: who trains together.
        classes: of foreground.
        labelled, validation: volumes with labels.
        unlabelled: what autoencoders see; empty where the strategy does not need it.
        pseudo_labelled: volumes with the labels of another run's network.
        pretrained: model of all that was trained before; of autoencoders, the finest level's first.
        start: weights of another model that training begins with, as a network names them.
        run: the run directory, for what is worked out once and kept; None: nothing is.
        control: shows how far that is, and asks to stop.
    """

    config: RunConfig
    device: torch.device
    ranks: Ranks
    classes: int = 1
    labelled: Sequence[Source] = ()
    validation: Sequence[Source] = ()
    unlabelled: Sequence[Source] = ()
    pseudo_labelled: Sequence[Source] = ()
    pretrained: Sequence[Path] = ()
    start: Mapping[str, Tensor] = field(default_factory=dict)
    run: Path | None = None
    control: Control | None = None


class Task(ABC):
    """Modules, optimizers, batches and losses; the loop (`hpcseg.training.loop.fit`) does the rest.

    Attributes:
        epochs, steps: how many epochs at most, and training steps of each.
        phase: what the user reads while it runs.
        modules: everything that has weights, by name.
        optimizers: by the name of the loss that its schedule watches; the first loss is the one that counts.
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

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of the weights; returns the losses by name, which the next step may overwrite."""
        losses = (self.graphed or self.passes)(batch)
        self.update.step()
        return losses

    def validation_loss(self, epoch: int) -> float | None:
        """Mean loss over the validation batches of `epoch`; None for a task without validation."""
        return None

    def on_epoch_end(self, epoch: int, means: dict[str, float]) -> None:  # noqa: B027  (a task may leave it)
        """Called with the mean losses of each epoch."""

    def measure(self, epoch: int) -> dict[str, Any]:
        """What `history.jsonl` gets of an epoch beside its losses, before `on_epoch_end`; changes nothing."""
        return {}

    def extra_state(self) -> dict[str, float]:
        """Numbers beyond weights and optimizers that a resumed run needs."""
        return {}

    def load_extra_state(self, state: dict[str, float]) -> None:  # noqa: B027  (a task may leave it)
        """Take back what `extra_state` gave."""
