"""Local jobs of two ranks each, through submitit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.plan import Plan
from hpcseg.submit.apply import apply
from hpcseg.submit.profile import LocalProfile, Profile

TWO_RANKS = Profile(local=LocalProfile(slots=1, threads=1, pack_workers=1, ranks=2))


def test_every_stage_that_trains_has_two_ranks_and_one_result(
    plan_study: Callable[..., Plan], storm: Callable[[int, int], int]
) -> None:
    strategy = ("baseline", "transfer")[storm(0, 1)]  # the latter has a pretraining, too
    short = (
        "autoencoder.epochs=1",
        "autoencoder.steps=2",
        "autoencoder.batch=3",
        "network.levels=1",
        "multitask.levels=1",
    )
    plan = plan_study(f"strategy={strategy}", *short)
    outcome = apply(plan, "local", TWO_RANKS)
    assert not outcome.failed and {verdict.state for verdict in outcome.verdicts.values()} == {"done"}
    for run_id in (*plan.of_stage("pretrain"), *plan.of_stage("train")):
        run = plan.run(run_id)
        assert json.loads((run.path / "training.json").read_text())["ranks"] == 2
        assert sorted(path.name[-9:] for path in run.log.glob("*_log.out")) == ["0_log.out", "1_log.out"]
        assert not list(run.path.glob(".ranks.json")) and not list(run.path.glob("evaluation*"))
    train = plan.run(next(iter(plan.of_stage("train"))))
    result = json.loads((train.path / "result.json").read_text())
    assert [line["case"] for line in result["sets"]["validation"]] == [
        scan.name for scan in train.spec().validation_scans
    ]


def test_a_run_that_ranks_cannot_share_is_refused_before_anything_is_written(
    plan_study: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"training\.batch = 1 cannot be shared by 2 ranks"):
        apply(plan_study("training.batch=1"), "local", TWO_RANKS)
    assert not (tmp_path / "runs").exists()


def test_a_fault_that_ranks_meet_is_told_rather_than_that_one_of_them_is_gone(plan_study: Callable[..., Plan]) -> None:
    pack = plan_study()
    apply(Plan(pack.sweep, pack.runs_root, pack.of_stage("pack"), {}), "local", TWO_RANKS)
    store = pack.run(next(iter(pack.of_stage("pack")))).path / "store.h5"
    content = bytearray(store.read_bytes())
    content[-1] ^= 255
    store.write_bytes(content)
    plan = plan_study()
    (why,) = apply(plan, "local", TWO_RANKS).failed.values()
    assert "store.h5" in why and "another rank" not in why
