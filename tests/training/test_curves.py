"""Which runs `watch` draws, and what it knows of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.plan import Plan
from hpcseg.submit.record import record
from hpcseg.training.control import Control
from hpcseg.training.curves import read_curves


def test_runs_are_named_or_those_that_train_now(plan_study: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_study("fold=[0, 1]", "training.epochs=7")
    record(plan)
    first, second = (plan.run(run_id) for run_id in plan.of_stage("train"))
    assert read_curves(plan.runs_root) == ([], False)
    for run in (first, second):
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text(plan.stages[run.id].spec.model_dump_json())
    losses = {"training_loss": 0.5, "validation_loss": None}
    lines = [{"epoch": 1, **losses}, {"epoch": 2, **losses, "validation_dice": [None, 0.5]}]
    (first.path / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    Control(first.path).beat(phase="training", step=5, steps=14, loss=0.25)
    (found,), goes_on = read_curves(plan.runs_root)
    assert goes_on and found.line.id == first.id and found.line.loss == 0.25 and found.epochs == 7
    assert (
        found.loss("training") == [(1, 0.5), (2, 0.5)] and found.loss("validation") == [] and found.dice == [(2, 0.5)]
    )
    for names in (["study"], ["baseline*"], [first.id[:14], str(second.path)]):
        curves, goes_on = read_curves(plan.runs_root, names)
        assert {one.line.id for one in curves} == {first.id, second.id} and goes_on
    pack = plan.run(next(iter(plan.of_stage("pack"))))
    pack.path.mkdir(parents=True)
    (pack.path / "run.json").write_text("{}")
    for name, words in (("Tiny", "learn nothing"), ("nix", "no run or sweep"), (" ", "matches every run")):
        with pytest.raises(BadInput, match=words):
            read_curves(plan.runs_root, [name])
