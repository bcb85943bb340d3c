"""Plateau rule and early stop against traces worked out by hand."""

from __future__ import annotations

import pytest
import torch

from hpcseg.config import TrainingConfig
from hpcseg.training.schedule import EarlyStop, Ema, Plateau, Schedule, Watch


def test_ema_starts_with_the_first_value_and_mixes_by_its_weight() -> None:
    ema = Ema(0.9)
    assert ema.update(2.0) == 2.0
    assert ema.update(1.0) == pytest.approx(1.9)
    assert ema.update(1.0) == pytest.approx(1.81)


def test_watch_counts_epochs_without_a_fall_of_at_least_the_drop() -> None:
    watch = Watch(drop=0.5)
    counts = [watch.update(value) for value in (4.0, 3.75, 3.5, 3.25, 3.25, 3.0, 9.0)]
    # 3.5 is lower than 4.0 by the drop; 3.25 is not lower than 3.5 by it; 3.0 is.
    assert counts == [0, 1, 0, 1, 2, 0, 1]


def plateau(patience: int, floor: float = 1e-7) -> Plateau:
    return Plateau.of(TrainingConfig(plateau_epochs=patience, ema_training=0.0, rate_floor=floor), initial_rate=3e-4)


def test_rate_falls_to_a_fifth_after_more_than_patience_flat_epochs() -> None:
    rule = plateau(patience=3)
    rates = []
    for _ in range(9):
        rule.update(1.0)
        rates.append(rule.rate)
    # The first epoch sets the mark; the fourth flat one after it (epoch 5) reduces, and so does epoch 9.
    assert rates == pytest.approx([3e-4] * 4 + [6e-5] * 4 + [1.2e-5])


def test_rate_reaches_the_published_floor_in_five_reductions_and_stays() -> None:
    rule = plateau(patience=1)
    rates = []
    for _ in range(20):
        rule.update(1.0)
        if rule.rate not in rates:
            rates.append(rule.rate)
    assert rates == pytest.approx([3e-4, 6e-5, 1.2e-5, 2.4e-6, 4.8e-7, 1e-7])
    assert rule.at_floor


def test_a_second_group_keeps_its_ratio_until_the_floor() -> None:
    rule = plateau(patience=1)
    for _ in range(3):
        rule.update(1.0)
    assert rule.scaled(8e-5) == pytest.approx(1.6e-5)
    assert rule.scaled(5e-8) == 5e-8  # a rate that began below the floor is not raised


def test_falling_loss_never_reduces_the_rate() -> None:
    rule = plateau(patience=2)
    for epoch in range(100):
        rule.update(-0.005 * epoch)
    assert rule.rate == 3e-4


def test_early_stop_waits_for_patience_and_for_the_floor() -> None:
    stop = EarlyStop(patience=2, ema=Ema(0.0), watch=Watch(5e-3))
    ended = [stop.update(1.0, at_floor=floor) for floor in (True, True, True, False, True)]
    assert ended == [False, False, False, False, True]


def test_state_round_trip_continues_the_trace() -> None:
    losses = [1.0, 0.9, 0.9, 0.9, 0.9, 0.89, 0.89, 0.89, 0.89, 0.89]
    straight, first = plateau(2), plateau(2)
    for loss in losses:
        straight.update(loss)
    for loss in losses[:5]:
        first.update(loss)
    second = plateau(2)
    second.restore(first.state())
    for loss in losses[5:]:
        second.update(loss)
    assert second.state() == straight.state()


def polynomial(epochs: int = 4, **changes: float) -> tuple[Schedule, list[torch.optim.Optimizer]]:
    """The schedule of two optimizers, the first of two groups."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [weights[0]], "initial_lr": 0.5}, {"params": [weights[1]], "initial_lr": 0.25}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(groups, lr=0.5),
        torch.optim.Adam([{"params": [weights[2]], "initial_lr": 2.0}], lr=2.0),
    ]
    config = TrainingConfig.model_validate({"schedule": "polynomial", "stop_epochs": 1, "rate_floor": 0.3, **changes})
    return Schedule(config, dict(zip("ab", optimizers, strict=True)), epochs), optimizers


def rates(optimizers: list[torch.optim.Optimizer]) -> list[float]:
    return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]


def test_a_polynomial_falls_to_nought_over_all_epochs_whatever_the_loss_and_nothing_ends_it() -> None:
    schedule, optimizers = polynomial(polynomial_exponent=2.0)
    for left in (3, 2, 1, 0):
        assert not schedule.on_epoch_end({"a": 1.0, "b": 9.0}, validation=1.0)
        assert rates(optimizers) == [rate * (left / 4) ** 2 for rate in (0.5, 0.25, 2.0)]
        assert schedule.rate == 0.5 * (left / 4) ** 2
    assert schedule.watched == 1.0


def test_a_polynomial_begins_as_nnunets() -> None:
    schedule, optimizers = polynomial(epochs=1000)
    schedule.on_epoch_end({"a": 1.0, "b": 1.0}, validation=None)
    assert rates(optimizers)[0] == pytest.approx(0.5 * (1 - 1 / 1000) ** 0.9)
    assert schedule.watched == 1.0  # without validation the training's average


def test_a_polynomial_goes_on_from_its_state() -> None:
    straight, first, second = polynomial(), polynomial(), polynomial()
    for schedule, count in ((straight[0], 3), (first[0], 2)):
        for loss in (0.5, 0.25, 0.125)[:count]:
            schedule.on_epoch_end({"a": loss, "b": loss}, loss)
    second[0].restore(first[0].state())
    second[0].on_epoch_end({"a": 0.125, "b": 0.125}, 0.125)
    assert second[0].state() == straight[0].state() and second[0].watched == straight[0].watched
    assert rates(second[1]) == rates(straight[1])
