"""The loop by itself, with a task of one weight whose losses are written down beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpcseg.config import TrainingConfig
from hpcseg.errors import BadInput, Interrupted, LeftOut, TrainingError
from hpcseg.heartbeat import read_heartbeat
from hpcseg.paths import HISTORY_FILE
from hpcseg.training.checkpoint import load_checkpoint, save_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.loop import fit
from hpcseg.training.precision import Precision
from hpcseg.training.ranks import ALONE
from hpcseg.training.task import Task
from hpcseg.training.update import Update
from tests.training.stopping import StopAfter

CPU = torch.device("cpu")


class Scripted(Task):
    """Its loss in step s of epoch e is `training[e]` + s - (steps - 1) / 2, so that the epoch's mean is as written."""

    phase = "training"

    def __init__(self, training: Sequence[float], validation: Sequence[float | None], steps: int = 1) -> None:
        self.epochs, self.steps = len(training), steps
        self.ranks, self.precision = ALONE, Precision(CPU)
        self.training, self.validation = training, validation
        self.network = nn.Linear(1, 1, bias=False)
        self.modules = {"network": self.network}
        groups = [{"params": list(self.network.parameters()), "lr": 0.125, "initial_lr": 0.125}]
        self.optimizers = {"segmentation": torch.optim.Adam(groups)}
        self.update = Update(self.precision, self.optimizers)
        self.gradient = 1.0

    @property
    def kept(self) -> nn.Module:
        return self.network

    def batches(self, first_step: int) -> Generator[Any]:
        yield from range(first_step, self.epochs * self.steps)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        epoch, step = divmod(batch, self.steps)
        scripted = torch.tensor(self.training[epoch] + step - (self.steps - 1) / 2)
        return self.network.weight.sum() * self.gradient, {"segmentation": scripted}

    def validation_loss(self, epoch: int) -> float | None:
        return self.validation[epoch]


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"checkpoint_epochs": 1, **changes})


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]


# Worked out by hand, in binary fractions. Rule: EMA of weight 1/2; a fall counts from 1/8; plateau: more than 2 epochs
# without one; rate times 1/4 from 1/8, floor 1/64; stop: more than 3 epochs without one, at the floor only.
#
#  epoch  loss  EMA      lowest  without  rate after    validation  EMA  lowest  without  ends
#  1      1     1        1       0        1/8           2           2    2       0
#  2      3/4   7/8      7/8     0        1/8           1           3/2  3/2     0
#  3      3/4   13/16    7/8     1        1/8           1           5/4  5/4     0
#  4      3/4   25/32    7/8     2        1/8           1           9/8  9/8     0
#  5      3/4   49/64    7/8     3 > 2    1/32          1         17/16  9/8     1
#  6      3/4   97/128   7/8     1        1/32          1         33/32  9/8     2
#  7      1/4   129/256  129/256 0        1/32          1         65/64  9/8     3
#  8      1/4   193/512  193/512 0        1/32          1       129/128  9/8     4 > 3, but not at the floor
#  9      1/4   ~0.314   193/512 1        1/32          1       ~1.004   9/8     5
#  10     1/4   ~0.282   193/512 2        1/32          1       ~1.002   9/8     6
#  11     1/4   ~0.266   193/512 3 > 2    1/128 < 1/64  1       ~1.001   9/8     7 > 3 and at the floor: ends
TRAINING = [1.0] + [0.75] * 5 + [0.25] * 9
VALIDATION = [2.0] + [1.0] * 14
RATES = [1 / 8] * 4 + [1 / 32] * 6 + [1 / 64]
RULES: dict[str, Any] = {
    "ema_training": 0.5,
    "ema_validation": 0.5,
    "plateau_drop": 0.125,
    "plateau_epochs": 2,
    "plateau_factor": 0.25,
    "rate_floor": 1 / 64,
    "stop_epochs": 3,
}


def test_plateau_and_early_stop_follow_the_trace_worked_out_by_hand(tmp_path: Path) -> None:
    task = Scripted(TRAINING, VALIDATION, steps=3)
    progress = fit(task, tmp_path, Control(tmp_path), config(**RULES))
    lines = history(tmp_path)
    assert [line["training_loss"] for line in lines] == TRAINING[:11]
    assert [line["learning_rate"] for line in lines] == RATES
    assert progress.epoch == 11 and progress.ended
    assert task.optimizers["segmentation"].param_groups[0]["lr"] == 1 / 64
    # The validation EMA falls to the end.
    assert progress.best_epoch == 10
    assert progress.best_value == 1 + 2.0**-10


@pytest.mark.parametrize("stops", [[k] for k in range(1, 33)] + [[1] * 32, [3] * 10, [7, 2, 11, 5]])
def test_the_trace_is_the_same_wherever_it_is_interrupted(tmp_path: Path, stops: list[int]) -> None:
    for steps in stops:
        with pytest.raises(Interrupted):
            fit(Scripted(TRAINING, VALIDATION, steps=3), tmp_path, StopAfter(tmp_path, steps), config(**RULES))
    progress = fit(Scripted(TRAINING, VALIDATION, steps=3), tmp_path, Control(tmp_path), config(**RULES))
    assert [line["learning_rate"] for line in history(tmp_path)] == RATES
    assert (progress.epoch, progress.best_epoch) == (11, 10)


def test_without_validation_the_training_average_selects(tmp_path: Path) -> None:
    losses = [3.0, 1.0, 2.0, 4.0]
    progress = fit(Scripted(losses, [None] * 4), tmp_path, Control(tmp_path), config(ema_training=0.0))
    assert (progress.best_epoch, progress.best_value) == (1, 1.0)


def test_the_last_weights_are_kept_if_so_configured(tmp_path: Path) -> None:
    task = Scripted([1.0] * 3, [1.0, 2.0, 3.0])
    progress = fit(task, tmp_path, Control(tmp_path), config(select="last"))
    assert progress.best_epoch == 2
    assert torch.equal(progress.best_weights["weight"], task.network.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path: Path, value: float) -> None:
    with pytest.raises(TrainingError, match=rf"the segmentation loss is {value} in epoch 3, step 1; the last check"):
        fit(Scripted([1.0, 1.0, value], [1.0] * 3), tmp_path, Control(tmp_path), config())
    state = load_checkpoint(tmp_path)
    assert state is not None and state["progress"]["epoch"] == 2


def test_a_validation_loss_that_is_not_finite_does_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the validation loss is nan in epoch 2, step 1"):
        fit(Scripted([1.0] * 3, [1.0, math.nan, 1.0]), tmp_path, Control(tmp_path), config())
    state = load_checkpoint(tmp_path)
    assert state is not None and state["progress"]["epoch"] == 1


@pytest.mark.parametrize("asked", [False, True])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, asked: bool) -> None:
    class Spoilt(Scripted):
        def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            self.gradient = math.nan if batch == 3 else 1.0  # step 2 of epoch 2, whose reported loss is finite
            return super().losses(batch)

    control = StopAfter(tmp_path, 4) if asked else Control(tmp_path)
    with pytest.raises(TrainingError, match=r"network\.weight is not finite after step 4; the last checkpoint is kept"):
        fit(Spoilt([1.0] * 3, [1.0] * 3, steps=2), tmp_path, control, config())
    state = load_checkpoint(tmp_path)
    assert state is not None and state["progress"]["epoch"] == 1


def test_in_float16_the_cause_is_said(tmp_path: Path) -> None:
    task = Scripted([math.inf], [1.0])
    task.precision = Precision(CPU, "float16")
    with pytest.raises(TrainingError, match=r"float16 ends at 65504: set training\.precision = 'bfloat16'"):
        fit(task, tmp_path, Control(tmp_path), config())


def test_what_saving_costs_is_said_in_log_and_heartbeat_and_outlives_an_attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        fit(Scripted([1.0] * 4, [1.0] * 4), tmp_path, StopAfter(tmp_path, 2), config())
    control = Control(tmp_path, interval_s=0.0)
    fit(Scripted([1.0] * 4, [1.0] * 4), tmp_path, control, config())
    control.close("stopped")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint of step")]
    assert [line.split()[3] for line in lines] == ["1", "2", "2", "3", "4"]
    heartbeat = read_heartbeat(tmp_path)
    assert heartbeat is not None and heartbeat.checkpoint is not None
    assert heartbeat.checkpoint == control.checkpoint
    assert heartbeat.checkpoint["seconds"] >= heartbeat.checkpoint["last_seconds"] > 0
    assert heartbeat.checkpoint["bytes"] >= (tmp_path / "checkpoint.pt").stat().st_size


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [6]),  # at the end alone: a minute has not passed
        ({"checkpoint_seconds": 1e-9}, [1, 2, 3, 4, 5, 6]),
        ({"checkpoint_epochs": 1}, [2, 4, 6]),
    ],
)
def test_a_run_is_saved_when_its_time_has_come_and_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], steps: list[int]
) -> None:
    fit(Scripted([1.0] * 3, [1.0] * 3, 2), tmp_path, Control(tmp_path), config(**{"checkpoint_epochs": 0, **changes}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint of step")]
    assert [int(line.split()[3]) for line in lines] == steps


@pytest.mark.parametrize("kills", [[k] for k in range(1, 33, 3)] + [[2, 11, 12, 29]])
def test_the_trace_is_the_same_after_kills_between_saves_within_epochs(tmp_path: Path, kills: list[int]) -> None:
    class Killed(Scripted):
        at = 0

        def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            if batch == self.at:
                raise KeyboardInterrupt
            return super().losses(batch)

    often = config(**RULES, checkpoint_seconds=1e-9) if len(kills) > 1 else config(**RULES)
    for kill in kills:
        task = Killed(TRAINING, VALIDATION, steps=3)
        task.at = kill
        with pytest.raises(KeyboardInterrupt):
            fit(task, tmp_path, Control(tmp_path), often)
    progress = fit(Scripted(TRAINING, VALIDATION, steps=3), tmp_path, Control(tmp_path), often)
    assert [line["learning_rate"] for line in history(tmp_path)] == RATES
    assert (progress.epoch, progress.best_epoch) == (11, 10)


def test_history_that_a_checkpoint_does_not_know_is_cut_off(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(Scripted([1.0] * 4, [1.0] * 4), tmp_path, StopAfter(tmp_path, 3), config(checkpoint_epochs=9))
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write('{"epoch": 3, "train')  # a kill in the middle of a line
    fit(Scripted([1.0] * 4, [1.0] * 4), tmp_path, Control(tmp_path), config())
    assert [line["epoch"] for line in history(tmp_path)] == [1, 2, 3, 4]


def test_a_line_of_the_history_that_is_torn_or_damaged_costs_that_line(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(Scripted([1.0] * 4, [1.0] * 4), tmp_path, StopAfter(tmp_path, 3), config())
    path = tmp_path / HISTORY_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\xff" + lines[0] + lines[1][:20])  # the second one torn: no newline
    with pytest.warns(LeftOut, match="line 1 cannot be read"):
        fit(Scripted([1.0] * 4, [1.0] * 4), tmp_path, Control(tmp_path), config())
    assert [line["epoch"] for line in history(tmp_path)] == [3, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"modules": {}},
        {"modules": {"network": {"weight": torch.zeros(2, 1)}}},
        {"optimizers": {"segmentation": {"state": {0: {}}, "param_groups": [{"params": [0]}]}}},
        {"progress": {"epoch": "1"}},
        {"progress": {"best_weights": {"weight": 1}}},
        {"plateaus": []},
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    task = Scripted([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(Interrupted):
        fit(task, tmp_path, StopAfter(tmp_path, 1), config())
    state = load_checkpoint(tmp_path)
    assert state is not None
    save_checkpoint(tmp_path, state | change)
    with pytest.raises(BadInput, match=r"checkpoint\.pt: does not fit the run"):
        fit(Scripted([1.0, 1.0], [1.0, 1.0]), tmp_path, Control(tmp_path), config())
