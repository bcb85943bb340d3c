"""Deferred losses are recorded in order and in time; on GPUs late by a fixed number of steps, which is played here."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpcseg.errors import Interrupted, TrainingError
from hpcseg.training import deferred as deferred_module
from hpcseg.training.checkpoint import load_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.deferred import LATE, DeferredLosses, StopFlag
from hpcseg.training.loop import fit
from hpcseg.training.ranks import ALONE, Ranks
from tests.training.stopping import StopAfter
from tests.training.test_loop import Scripted, config, history

CPU = torch.device("cpu")


class Late:
    """What `AsyncCopies` is on a GPU, without one."""

    def __init__(self, _: torch.device) -> None:
        self._waiting: deque[list[float]] = deque()

    def send(self, numbers: Tensor) -> list[list[float]]:
        self._waiting.append(numbers.tolist())
        return [self._waiting.popleft()] if len(self._waiting) > LATE else []

    def flush(self) -> list[list[float]]:
        found = list(self._waiting)
        self._waiting.clear()
        return found


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_module, "AsyncCopies", Late)


def test_on_a_cpu_a_report_is_heard_at_once() -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    losses = DeferredLosses(CPU, lambda step, numbers: heard.append((step, numbers)))
    losses.send(3, {"a": torch.tensor(0.1), "b": torch.tensor(2.0)})
    assert heard == [(3, {"a": float(torch.tensor(0.1)), "b": 2.0})]
    losses.flush()
    assert len(heard) == 1


@pytest.mark.usefixtures("late")
def test_late_reports_hold_the_numbers_of_their_time_in_order() -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    losses = DeferredLosses(CPU, lambda step, numbers: heard.append((step, numbers)))
    loss = torch.zeros(())
    for step in range(1, 6):
        losses.send(step, {"loss": loss.fill_(step)})
        assert [step for step, _ in heard] == list(range(1, step - LATE + 1))
    losses.flush()
    assert heard == [(step, {"loss": float(step)}) for step in range(1, 6)]


@pytest.mark.usefixtures("late")
def test_a_run_that_hears_late_ends_as_one_that_hears_at_once(tmp_path: Path) -> None:
    def fitted(run: Path, stops: int) -> list[dict[str, Any]]:
        run.mkdir()
        if stops:
            with pytest.raises(Interrupted):
                fit(Scripted([1.0, 2.0, 3.0], [1.0] * 3, steps=4), run, StopAfter(run, stops), config())
            state = load_checkpoint(run)
            assert state is not None
            progress = state["progress"]
            assert progress["epoch"] * 4 + progress["step"] == stops  # at once, for a rank that is alone
            assert len(progress["losses"].get("segmentation", [])) == progress["step"]
        fit(Scripted([1.0, 2.0, 3.0], [1.0] * 3, steps=4), run, Control(run), config())
        return history(run)

    whole = fitted(tmp_path / "whole", 0)
    assert [line["training_loss"] for line in whole] == [1.0, 2.0, 3.0]
    for stops in (1, 2, 3, 4, 6, 11):
        assert fitted(tmp_path / str(stops), stops) == whole


class SpoiltAt(Scripted):
    """Its loss is not a number in one step, and then again, as it would be."""

    def __init__(self, spoilt: int) -> None:
        super().__init__([1.0] * 3, [1.0] * 3, steps=4)
        self.spoilt = spoilt
        self.steps_begun: list[int] = []

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.steps_begun.append(batch)
        total, losses = super().losses(batch)
        return (total, losses) if batch < self.spoilt else (total * float("nan"), {"segmentation": total * torch.nan})


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("spoilt", range(12))
def test_a_loss_that_is_not_finite_is_named_by_its_own_step_and_nothing_is_saved_after_it(
    tmp_path: Path, spoilt: int
) -> None:
    task = SpoiltAt(spoilt)
    message = rf"segmentation loss is nan in epoch {spoilt // 4 + 1}, step {spoilt % 4 + 1};"
    with pytest.raises(TrainingError, match=message):
        fit(task, tmp_path, Control(tmp_path), config())
    assert len(task.steps_begun) <= spoilt + 1 + LATE
    state = load_checkpoint(tmp_path)
    assert (None if state is None else state["progress"]["epoch"]) == (spoilt // 4 or None)
    assert len(history(tmp_path) if spoilt >= 4 else []) == spoilt // 4
    if state is not None:
        assert torch.isfinite(state["modules"]["network"]["weight"]).all()


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("steps", [6, 7, 8])
def test_who_is_asked_to_stop_with_a_bad_report_under_way_saves_nothing(tmp_path: Path, steps: int) -> None:
    with pytest.raises(TrainingError, match="in epoch 2, step 2"):
        fit(SpoiltAt(5), tmp_path, StopAfter(tmp_path, steps), config())
    state = load_checkpoint(tmp_path)
    assert state is not None and state["progress"]["epoch"] == 1


class Pair(Ranks):
    """Two ranks on GPUs, of which this is one and does not wait for the other."""

    def add_up(self, tensor: Tensor) -> Tensor:
        return tensor


def test_one_alone_stops_at_once() -> None:
    sign = StopFlag(ALONE)
    assert [sign.raised(asked) for asked in (False, True)] == [False, True]


@pytest.mark.usefixtures("late")
def test_several_on_gpus_stop_after_the_same_later_step_and_do_not_forget_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pair, "count", lambda _, flag: torch.tensor([float(flag)]))
    sign = StopFlag(Pair(0, 2, torch.device("cuda")))
    asked = [False, False, True, False, False, False]
    assert [sign.raised(flag) for flag in asked] == [False] * (2 + LATE) + [True] * (4 - LATE)


def test_a_count_says_on_how_many_ranks_a_flag_is_set() -> None:
    assert Pair(0, 2, CPU).count(True).tolist() == [1.0] and ALONE.count(False).tolist() == [0.0]


def test_batches_that_nobody_needs_are_not_asked_for(tmp_path: Path) -> None:
    class Counting(Scripted):
        closed = False

        def batches(self, first_step: int) -> Generator[Any]:
            try:
                yield from super().batches(first_step)
            finally:
                self.closed = True

    task = Counting([1.0], [1.0], steps=4)
    with pytest.raises(Interrupted):
        fit(task, tmp_path, StopAfter(tmp_path, 2), config())
    assert task.closed
