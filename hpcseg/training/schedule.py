"""When the learning rate falls and when training ends: pure bookkeeping over epochs (paper 3.1.1).

The rule of plateaus is that of the first nnU-Net, which the paper cites: an exponential moving average (EMA) of the
loss, seeded with the first value, must fall by `drop` below the lowest value that counted so far; more than `patience`
epochs without such a fall count as a plateau. The polynomial is today's nnU-Net's; with it the last epoch is the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcseg.config import TrainingConfig

if TYPE_CHECKING:
    import torch


@dataclass
class Ema:
    """Exponential moving average; `update` returns the new value.

    >>> average = Ema(weight=0.9)
    >>> [average.update(loss) for loss in (1.0, 0.0, 0.0)]
    [1.0, 0.9, 0.81]
    """

    weight: float
    value: float | None = None

    def update(self, loss: float) -> float:
        """Mix in the loss of one epoch."""
        self.value = loss if self.value is None else self.weight * self.value + (1 - self.weight) * loss
        return self.value


@dataclass
class Watch:
    """Counts the epochs since a value last fell by at least `drop` below the lowest one that counted.

    >>> watch = Watch(drop=0.1)
    >>> [watch.update(value) for value in (1.0, 0.95, 0.9, 0.85, 0.79)]
    [0, 1, 0, 1, 0]
    """

    drop: float
    lowest: float | None = None
    epochs: int = 0

    def update(self, value: float) -> int:
        """Epochs since the last such fall, after one more epoch with `value`."""
        if self.lowest is None or value <= self.lowest - self.drop:
            self.lowest, self.epochs = value, 0
        else:
            self.epochs += 1
        return self.epochs


@dataclass
class Plateau:
    """Learning rate of one optimizer, as a factor on the rates it began with.

    `scale` falls by `factor` on a plateau; the rate itself never falls below `floor`.

    >>> rule = Plateau(initial_rate=1.0, factor=0.5, floor=0.25, patience=1, ema=Ema(0.93), watch=Watch(drop=0.1))
    >>> [rule.update(1.0) or rule.rate for epoch in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    initial_rate: float
    factor: float
    floor: float
    patience: int
    ema: Ema
    watch: Watch
    scale: float = 1.0

    @classmethod
    def of(cls, config: TrainingConfig, initial_rate: float) -> Plateau:
        """The plateau rule of `config` for an optimizer that starts at `initial_rate`."""
        return cls(
            initial_rate=initial_rate,
            factor=config.plateau_factor,
            floor=config.rate_floor,
            patience=config.plateau_epochs,
            ema=Ema(config.ema_training),
            watch=Watch(config.plateau_drop),
        )

    def update(self, loss: float) -> None:
        """Close one epoch with its mean training loss."""
        if self.watch.update(self.ema.update(loss)) > self.patience and not self.at_floor:
            self.scale *= self.factor
            self.watch.epochs = 0

    @property
    def rate(self) -> float:
        """Learning rate of the next epoch."""
        return self.scaled(self.initial_rate)

    def scaled(self, initial_rate: float) -> float:
        """Rate of a parameter group that started at `initial_rate`."""
        return max(initial_rate * self.scale, min(self.floor, initial_rate))

    @property
    def at_floor(self) -> bool:
        """Whether the rate has reached the floor."""
        return self.rate <= self.floor

    def state(self) -> dict[str, float | int | None]:
        """Everything that changes, as plain numbers."""
        return {
            "scale": self.scale,
            "ema": self.ema.value,
            "lowest": self.watch.lowest,
            "epochs": self.watch.epochs,
        }

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Take back what `state` gave."""
        self.scale = float(state["scale"] or 0.0)
        self.ema.value, self.watch.lowest = state["ema"], state["lowest"]
        self.watch.epochs = int(state["epochs"] or 0)


@dataclass
class Polynomial:
    """Learning rate of one optimizer that falls from epoch to epoch by itself, and is 0 after the last one.

    >>> rule = Polynomial(initial_rate=1.0, exponent=2.0, epochs=4, ema=Ema(0.93))
    >>> [rule.update(1.0) or rule.rate for epoch in range(4)]
    [0.5625, 0.25, 0.0625, 0.0]
    """

    initial_rate: float
    exponent: float
    epochs: int
    ema: Ema
    epoch: int = 0
    at_floor = False  # so that nothing ends training early

    def update(self, loss: float) -> None:
        """Close one epoch with its mean training loss."""
        self.ema.update(loss)
        self.epoch += 1

    @property
    def rate(self) -> float:
        """Learning rate of the next epoch."""
        return self.scaled(self.initial_rate)

    def scaled(self, initial_rate: float) -> float:
        """Rate of a parameter group that started at `initial_rate`."""
        return float(initial_rate * (1 - self.epoch / self.epochs) ** self.exponent)

    def state(self) -> dict[str, float | int | None]:
        """Everything that changes, as plain numbers."""
        return {"ema": self.ema.value, "epoch": self.epoch}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Take back what `state` gave."""
        self.ema.value, self.epoch = state["ema"], int(state["epoch"] or 0)


@dataclass
class EarlyStop:
    """Ends training once the validation EMA has not fallen for more than `patience` epochs, at the floor only."""

    patience: int
    ema: Ema
    watch: Watch

    @classmethod
    def of(cls, config: TrainingConfig) -> EarlyStop:
        """The early-stopping rule of `config`."""
        return cls(config.stop_epochs, Ema(config.ema_validation), Watch(config.plateau_drop))

    def update(self, loss: float, *, at_floor: bool) -> bool:
        """Close one epoch with its mean validation loss; true when training should end."""
        return self.watch.update(self.ema.update(loss)) > self.patience and at_floor

    def state(self) -> dict[str, float | int | None]:
        """Everything that changes, as plain numbers."""
        return {"ema": self.ema.value, "lowest": self.watch.lowest, "epochs": self.watch.epochs}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Take back what `state` gave."""
        self.ema.value, self.watch.lowest = state["ema"], state["lowest"]
        self.watch.epochs = int(state["epochs"] or 0)


class Schedule:
    """The rates of all optimizers and the end of training; the first optimizer's loss is the one that counts.

    Args:
        config: the rules.
        optimizers: by the name of the loss that its plateau watches.
        epochs: of the whole training.

    Attributes:
        watched: what decides which epoch is best: the EMA of the validation loss, without validation of the training's.
    """

    def __init__(self, config: TrainingConfig, optimizers: Mapping[str, torch.optim.Optimizer], epochs: int) -> None:
        def rule(initial_rate: float) -> Plateau | Polynomial:
            if config.schedule == "plateau":
                return Plateau.of(config, initial_rate)
            return Polynomial(initial_rate, config.polynomial_exponent, epochs, Ema(config.ema_training))

        self._optimizers = optimizers
        self._rules = {name: rule(one.param_groups[0]["initial_lr"]) for name, one in optimizers.items()}
        self._first = next(iter(self._rules.values()))
        self._stop = EarlyStop.of(config)
        self.watched: float | None = None

    @property
    def rate(self) -> float:
        """Learning rate of the first optimizer's first group."""
        return self._first.rate

    def on_epoch_end(self, means: Mapping[str, float], validation: float | None) -> bool:
        """Set the rates of the next epoch from the mean losses of this one; true when training should end."""
        for name, rule in self._rules.items():
            rule.update(means[name])
            for group in self._optimizers[name].param_groups:
                group["lr"] = rule.scaled(group["initial_lr"])
        if validation is None:
            self.watched = self._first.ema.value
            return False
        ended = self._stop.update(validation, at_floor=self._first.at_floor)
        self.watched = self._stop.ema.value
        return ended

    def state(self) -> dict[str, Any]:
        """Everything that changes but the rates, which the optimizers keep; as plain numbers."""
        rules = {name: rule.state() for name, rule in self._rules.items()}
        return {"plateaus": rules, "stop": self._stop.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, rule in self._rules.items():
            rule.restore(state["plateaus"][name])
        self._stop.restore(state["stop"])
