"""The moving average of the weights, and runs that keep it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpcseg.networks.convolution import Convolution, Plan
from hpcseg.paths import HISTORY_FILE, MODEL_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training.average import WeightAverage
from hpcseg.training.checkpoint import load_checkpoint, load_tensors
from hpcseg.training.control import Control
from hpcseg.training.precision import Precision
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.update import Update
from tests.training.conftest import RECIPE
from tests.training.stopping import train_in_parts

CPU = Precision(torch.device("cpu"))
SETTINGS: dict[str, Any] = {"epochs": 3, "steps": 4, "validation_steps": 1, "batch": 2, "learning_rate": 3e-3}


def network() -> nn.Sequential:
    return nn.Sequential(Convolution(1, 2, 3), nn.BatchNorm3d(2))


def test_it_begins_as_the_network_and_forgets_its_first_weights_soon() -> None:
    own = nn.Linear(1, 1, bias=False)
    nn.init.constant_(own.weight, 8.0)
    average = WeightAverage(own, 0.5, CPU)
    assert float(average.network.weight.detach()) == 8.0
    expected = 8.0
    for step, value in enumerate((4.0, -2.0, 1.0, 0.0, 6.0, 3.0, 3.0, 9.0, 2.0, 0.0, 1.0)):
        nn.init.constant_(own.weight, value)
        average.update()
        kept = min(0.5, (1 + step) / (10 + step))  # a half from step 8 on
        expected = kept * expected + (1 - kept) * value
        assert float(average.network.weight.detach()) == pytest.approx(expected, rel=1e-6)
    assert average.steps == 11


def test_weights_are_averaged_and_buffers_copied_and_the_network_is_left_alone() -> None:
    torch.manual_seed(0)
    own = network()
    average = WeightAverage(own, 0.99, CPU)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    own(torch.randn(2, 1, 5, 5, 5))
    statistics = [buffer.clone() for buffer in own.buffers()]
    average.update()
    assert all(torch.equal(a, b) for a, b in zip(average.network.buffers(), statistics, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in own.named_parameters())
    assert not any(weight.requires_grad for weight in average.network.parameters())
    assert all(weight.requires_grad for weight in own.parameters())
    assert not average.network.training and own.training
    assert average.network.state_dict().keys() == own.state_dict().keys()


def test_convolutions_are_computed_as_the_network_s_unless_they_have_a_plan() -> None:
    own = Convolution(1, 2, 3)
    average = WeightAverage(own, 0.99, CPU)
    own.plan = Plan(forward="triton")
    average.follow_plans()
    assert average.network.plan == Plan(forward="triton")
    average.network.plan = Plan(forward="triton wide")
    average.follow_plans()
    assert average.network.plan == Plan(forward="triton wide")


def test_an_update_takes_the_weights_after_the_step_and_its_state_counts_the_steps() -> None:
    own = nn.Linear(1, 1, bias=False)
    average = WeightAverage(own, 0.99, CPU)
    optimizers = {"a": torch.optim.SGD(own.parameters(), lr=1.0)}
    update = Update(CPU, optimizers)
    update.average = average
    first = float(own.weight.detach())
    update.backward(own.weight.sum())
    update.step()
    assert float(average.network.weight.detach()) == pytest.approx(0.1 * first + 0.9 * (first - 1))
    assert update.state() == {"averaged steps": 1}
    update.restore({"averaged steps": 5})
    assert average.steps == 5


def test_the_average_is_validated_and_kept(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, averaged = new_run("plain"), new_run("averaged")
    train(plain, train_spec(training=SETTINGS | {"select": "last"}), Control(plain))
    seen: list[dict[str, torch.Tensor]] = []
    update = WeightAverage.update

    def watched(self: WeightAverage[Any]) -> None:
        update(self)
        seen.append({name: value.clone() for name, value in self.network.state_dict().items()})

    monkeypatch.setattr(WeightAverage, "update", watched)
    train(averaged, train_spec(training=SETTINGS | {"select": "last", "average": 0.9}), Control(averaged))
    one, other = ([json.loads(line) for line in (run / HISTORY_FILE).open()] for run in (plain, averaged))
    assert [line["training_loss"] for line in one] == [line["training_loss"] for line in other]
    assert all(a["validation_loss"] != b["validation_loss"] for a, b in zip(one, other, strict=True))
    raw, kept = (load_tensors(run / MODEL_FILE)["weights"] for run in (plain, averaged))
    assert len(seen) == 12 and all(torch.equal(value, seen[-1][name]) for name, value in kept.items())
    assert not torch.equal(raw["classifier.weight"], kept["classifier.weight"])
    assert raw.keys() == kept.keys()


@pytest.mark.parametrize("strategy", ["baseline", "multitask", "teacher"])
def test_a_run_of_the_whole_recipe_goes_on_to_the_bit(
    strategy: str,
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    storm: Callable[[int, int], int],
) -> None:
    spec = train_spec(strategy, **(RECIPE | {"training": SETTINGS | RECIPE["training"]}))
    whole = new_run("whole")
    train(whole, spec, Control(whole))
    state = load_checkpoint(whole)
    assert state is not None and state["update"]["averaged steps"] == 12
    for stops in ([1] * 11, [3], [4, 5])[: storm(1, 3)]:
        parts = new_run("parts")
        train_in_parts(parts, spec, stops)
        assert compare(whole, parts) is None, stops
        rates = [json.loads(line)["learning_rate"] for line in (parts / HISTORY_FILE).open()]
        assert rates == pytest.approx([3e-3 * share**0.9 for share in (2 / 3, 1 / 3, 0)])
