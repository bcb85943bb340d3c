"""S-MTL: how much each loss has of the gradient of tied convolutions, measured without changing what is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hpcseg.paths import HISTORY_FILE, MODEL_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training.checkpoint import load_checkpoint, load_tensors
from hpcseg.training.control import Control
from hpcseg.training.stages import train
from hpcseg.training.strategies.multitask import MultitaskTask
from tests.training.conftest import SMALL

NewRun = Callable[[str], Path]


def shares(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["gradient_shares"] for line in (run / HISTORY_FILE).read_text().splitlines()]


def test_shares_sum_to_one_and_follow_the_weight_of_the_autoencoders(
    new_run: NewRun, train_spec: Callable[..., TrainSpec]
) -> None:
    found = []
    for factor in (1e-6, 1e-2, 1.0, 1e6):
        run = new_run(f"{factor}")
        section = SMALL["multitask"] | {"gamma": 1.0, "factor": factor}
        train(run, train_spec("multitask", multitask=section), Control(run))
        assert all(sum(epoch.values()) == pytest.approx(1) for epoch in shares(run))
        found.append([epoch["reconstruction"] for epoch in shares(run)])
    assert len(found[0]) == 3
    for lower, upper in pairwise(found):
        assert all(one < other for one, other in zip(lower, upper, strict=True))
    assert max(found[0]) < 1e-3 and min(found[-1]) > 0.999


def test_measuring_changes_no_bit_of_the_training(
    new_run: NewRun, train_spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, plain = new_run("measured"), new_run("plain")
    train(measured, train_spec("multitask"), Control(measured))
    monkeypatch.setattr(MultitaskTask, "measure", lambda self, epoch: {})
    train(plain, train_spec("multitask"), Control(plain))
    one, two = (load_tensors(run / MODEL_FILE)["weights"] for run in (measured, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)
    states = [load_checkpoint(run) for run in (measured, plain)]
    for name, tensor in states[0]["modules"]["autoencoders"].items():  # type: ignore[index]
        assert torch.equal(tensor, states[1]["modules"]["autoencoders"][name]), name  # type: ignore[index]
    assert "gradient_shares" not in (plain / HISTORY_FILE).read_text()


def test_shares_are_those_of_the_last_minibatch_after_the_epoch(
    new_run: NewRun, train_spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, expected = new_run("run"), []
    measure = MultitaskTask.measure

    def by_hand(task: MultitaskTask, epoch: int) -> dict[str, object]:
        found = measure(task, epoch)
        names = [f"encoders.{level}.cbr{cbr}.conv.weight" for level in (0, 1) for cbr in (1, 2, 3)]
        state = {name: value.clone() for name, value in task.network.state_dict().items()}
        batches = task.batches((epoch + 1) * task.steps - 1)
        labelled, unlabelled = next(batches)
        batches.close()
        norms = []
        for loss in (task.segmentation_loss(labelled), task.losses((labelled, unlabelled))[1]["reconstruction"]):
            task.network.zero_grad()
            loss.backward()
            weights = dict(task.network.named_parameters())
            norms.append(float(torch.cat([weights[name].grad.flatten() for name in names]).norm()))
        task.network.load_state_dict(state)
        expected.append(norms[0] / (norms[0] + task.gamma * norms[1]))
        return found

    monkeypatch.setattr(MultitaskTask, "measure", by_hand)
    train(run, train_spec("multitask"), Control(run))
    assert [epoch["segmentation"] for epoch in shares(run)] == pytest.approx(expected, rel=1e-3)
