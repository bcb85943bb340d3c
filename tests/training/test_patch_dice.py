"""Dice of minibatches: hard decisions, voxels without a class left out, and the same in every epoch's record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hpcseg.heartbeat import read_heartbeat
from hpcseg.paths import HISTORY_FILE
from hpcseg.spec import IGNORED, TrainSpec
from hpcseg.training import tasks
from hpcseg.training.control import Control
from hpcseg.training.patch_dice import dice, overlap
from hpcseg.training.stages import train


@given(st.integers(2, 4), st.integers(0, 2**31), st.booleans())
def test_it_is_twice_the_intersection_over_both_of_the_voxels_that_have_a_class(
    classes: int, seed: int, ignores: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_BCDHW = torch.randn(2, classes, 3, 2, 4, generator=generator)
    label_BDHW = torch.randint(0, classes, (2, 3, 2, 4), generator=generator)
    if ignores:
        label_BDHW[:, 0] = IGNORED
    pairs = list(zip(logits_BCDHW.argmax(1).ravel().tolist(), label_BDHW.ravel().tolist(), strict=True))
    pairs = [(found, true) for found, true in pairs if true != IGNORED]
    expected = []
    for value in range(1, classes):
        both = sum(found == true == value for found, true in pairs)
        total = sum((found == value) + (true == value) for found, true in pairs)
        expected.append(2 * both / total if total else None)
    assert dice(overlap(logits_BCDHW, label_BDHW)) == expected


def test_every_epoch_has_that_of_all_its_validation_minibatches(
    train_spec: Callable[..., TrainSpec],
    new_run: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    counted: list[Tensor] = []
    plain = tasks.SegmentationTask._validated

    def watched(task: Any, batch: Any) -> tuple[Tensor, Tensor]:
        counted.append(plain(task, batch)[1])
        return plain(task, batch)

    monkeypatch.setattr(tasks.SegmentationTask, "_validated", watched)
    run = new_run("run")
    spec = train_spec(training={"epochs": 3, "steps": 8, "validation_steps": 2, "batch": 2, "learning_rate": 1e-2})
    train(run, spec, Control(run, interval_s=0))
    records = [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]
    expected = [dice(counted[2 * epoch] + counted[2 * epoch + 1]) for epoch in range(3)]
    assert [record["validation_dice"] for record in records] == expected
    assert any(value for (value,) in expected)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]
    assert f"Dice {expected[2][0]:.3f}, rate 0.01" in lines[2]
    control = Control(run)
    control.validated(0.25)
    control.measured(0.5)
    control.close("done")
    beat = read_heartbeat(run)
    assert beat is not None and (beat.dice, beat.dsc) == (0.25, 0.5)
