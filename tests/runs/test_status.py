from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.runs.applied import applied_sweeps, read_sweep_record
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import inspect_run, newest_log, read_status, select_run, select_runs
from hpcseg.slurm.queue import Queue
from hpcseg.study.plan import Plan
from hpcseg.submit.actions import cancel, retry
from hpcseg.submit.record import record

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
Waiter = Callable[..., None]


@pytest.fixture
def plan(plan_study: Callable[..., Plan]) -> Plan:
    """An applied sweep whose runs were planned, and not submitted."""
    plan = plan_study("fold=[0, 1]")
    record(plan)
    for run_id, planned in plan.stages.items():
        run = plan.run(run_id)
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text(planned.spec.model_dump_json())
    return plan


def submit(run: RunDir, **values: object) -> None:
    run.write_submission(Submission.model_validate({"backend": "local", "submitted": time.time() - 100, **values}))


def test_status_lists_the_runs_of_applied_sweeps_ancestors_first(plan: Plan) -> None:
    lines = read_status(plan.runs_root)
    assert [line.id for line in lines] == list(plan.stages)
    assert {line.state for line in lines} == {"new"}
    assert applied_sweeps(plan.runs_root) == ["study"]
    assert json.dumps([line.as_json() for line in lines])


def test_an_unknown_sweep_is_an_error_that_lists_the_known_ones(plan: Plan) -> None:
    with pytest.raises(BadInput, match=r"no sweep 'x' was applied here \(there are: study\)"):
        read_status(plan.runs_root, ["x"])
    with pytest.raises(BadInput, match="there are: none"):
        read_sweep_record(plan.runs_root / "elsewhere", "x")


def test_a_failed_pack_blocks_its_runs_and_retry_frees_them(plan: Plan) -> None:
    pack = plan.run(next(iter(plan.stages)))
    submit(pack)
    pack.write_error(ValueError("no"))
    assert [line.state for line in read_status(plan.runs_root)] == ["failed", "blocked", "blocked"]
    assert retry(plan.runs_root, "Tiny*") == [pack.id]
    assert (pack.path / "error.1.json").exists()
    assert [line.state for line in read_status(plan.runs_root)] == ["stopped", "new", "new"]


def test_runs_are_chosen_by_sweep_pattern_or_beginning(plan: Plan) -> None:
    root = plan.runs_root
    assert [run.id for run in select_runs(root, "study")] == list(plan.stages)
    assert len(select_runs(root, "baseline-n2-f?-*")) == 2
    assert len(select_runs(root, "baseline-n2-f0")) == 1
    with pytest.raises(BadInput, match=r"no run or sweep in .* matches 'x'"):
        select_runs(root, "x")


def test_a_run_without_output_has_no_log(plan: Plan) -> None:
    with pytest.raises(BadInput, match="no log yet"):
        newest_log(plan.run(next(iter(plan.stages))))


def test_inspecting_a_run_says_what_it_is_and_what_is_wrong(plan: Plan) -> None:
    pack, train, _ = (plan.run(run_id) for run_id in plan.stages)
    assert inspect_run(train.path)["problems"] == []
    assert inspect_run(train.path)["strategy"] == "baseline"
    pack.write_error(ValueError("no"))
    assert inspect_run(pack.path)["problems"] == [f"{pack.id}: python: ValueError: no"]


def test_a_record_that_cannot_be_read_hides_no_other_run(plan: Plan) -> None:
    pack, train, _ = (plan.run(run_id) for run_id in plan.stages)
    (train.path / "job.json").write_text("{")
    states = {line.id: line for line in read_status(plan.runs_root)}
    assert states[pack.id].state == "new"
    assert states[train.id].state == "unknown" and "job.json: not valid JSON" in states[train.id].why
    assert inspect_run(train.path)["problems"]


def test_one_run_is_chosen_by_the_beginning_of_its_id(plan: Plan) -> None:
    pack, first, _ = plan.stages
    assert select_run(plan.runs_root, first[:-3]).id == first
    assert select_run(plan.runs_root, pack).id == pack
    with pytest.raises(BadInput, match="2 runs match 'baseline'; give more of the id"):
        select_run(plan.runs_root, "baseline")


def test_what_ends_while_the_status_is_read_is_not_lost(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = plan.run(next(iter(plan.stages)))
    submit(pack, backend="slurm", array="pack-a")

    def ends_meanwhile() -> Queue:
        (pack.path / "done.json").touch()
        (pack.path / "store.h5").touch()
        return Queue({})

    monkeypatch.setattr("hpcseg.runs.status.read_queue", ends_meanwhile)
    assert read_status(plan.runs_root)[0].state == "done"


def test_cancelling_a_running_run_makes_it_save_and_stop(
    write_sweep: Callable[[str], Path],
    start_apply: Callable[..., subprocess.Popen[str]],
    plan_study: Callable[..., Plan],
    wait_for: Waiter,
) -> None:
    long = "training.epochs=100000"
    pool = start_apply(write_sweep(STUDY), long)
    plan = plan_study(long)
    train = plan.run(next(iter(plan.of_stage("train"))))
    wait_for(lambda: (beat := train.heartbeat()) is not None and beat.phase == "training")
    (line,) = [line for line in read_status(plan.runs_root) if line.id == train.id]
    assert line.state == "running" and line.phase == "training" and line.epoch >= 1 and line.attempt == 1
    assert cancel(plan.runs_root, train.id) == [train.id]
    answer = json.loads(pool.communicate(timeout=60)[0])
    assert "saved and stopped" in answer["failed"][train.id]
    assert newest_log(train).parent == train.log
    assert cancel(plan.runs_root, train.id) == []
