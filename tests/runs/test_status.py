from __future__ import annotations

import json
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.errors import BadInput
from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.applied import applied_sweeps, read_sweep_record
from hpcseg.runs.attempts import Attempt, write_attempt
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.follow import write_output
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import RunStatus, add_up, gpu_seconds_of, line_of, read_status
from hpcseg.runs.why import inspect_run
from hpcseg.study.plan import Plan
from hpcseg.submit.actions import cancel, retry
from tests.waiting import PATIENCE_S

BEAT = Heartbeat("running", "training", 3, 9, 1, 0.5, 60.0, 8000.0, "n1", 4, 5.0, 2)
FIRST = Attempt(number=1, job="7_3", node="n1", began=1000.0, gpus=2, ended=4600.0, cause="node", lost_s=1800.0)
SECOND = Attempt(number=2, job="7_3", node="n2", began=6400.0, gpus=2)
STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
Waiter = Callable[..., None]


def submit(run: RunDir, **values: object) -> None:
    run.write_submission(Submission.model_validate({"backend": "local", "submitted": time.time() - 100, **values}))


def test_status_lists_the_runs_of_applied_sweeps_ancestors_first(plan: Plan) -> None:
    lines = read_status(plan.runs_root)
    assert [line.id for line in lines] == list(plan.stages)
    assert {line.state for line in lines} == {"new"}
    assert applied_sweeps(plan.runs_root) == ["study"]
    assert json.dumps([vars(line) for line in lines])


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


def test_a_run_without_output_has_no_log(plan: Plan) -> None:
    with pytest.raises(BadInput, match="no log yet"):
        write_output(plan.run(next(iter(plan.stages))), print, print)


def test_a_record_that_cannot_be_read_hides_no_other_run(plan: Plan) -> None:
    pack, train, _ = (plan.run(run_id) for run_id in plan.stages)
    (train.path / "job.json").write_text("{")
    states = {line.id: line for line in read_status(plan.runs_root)}
    assert states[pack.id].state == "new"
    assert states[train.id].state == "unknown" and "job.json: not valid JSON" in states[train.id].why
    assert inspect_run(train.path)["problems"]


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
    answer = json.loads(pool.communicate(timeout=PATIENCE_S)[0])
    assert "saved and stopped" in answer["failed"][train.id]
    log = train.newest_log()
    assert log is not None and log.parent == train.log
    assert cancel(plan.runs_root, train.id) == []


def test_a_line_tells_the_last_heartbeat_and_the_gpu_hours_of_all_attempts() -> None:
    evidence = Evidence(planned=True, heartbeat=BEAT, attempts=(FIRST, SECOND))
    line = line_of("r", "train", Verdict("running", "is alive", job="7_3", node="n2"), evidence, 10000.0)
    assert (line.step, line.steps, line.loss, line.eta_s, line.attempt, line.attempts) == (3, 9, 0.5, 60.0, 2, 2)
    assert (line.gpu_hours, line.gpu_hours_lost) == (4.0, 1.0)
    assert (line.job, line.node) == ("7_3", "n2")


def test_an_attempt_without_an_end_that_is_over_ran_until_its_last_heartbeat() -> None:
    evidence = Evidence(planned=True, heartbeat=BEAT, attempts=(FIRST, SECOND))
    for state in ("lost", "requeued", "held"):
        assert gpu_seconds_of(evidence, Verdict(state, "is gone"), 1e6)[0] == 2 * (3600 + 1600)
    assert line_of("r", "train", Verdict("lost", "is gone"), evidence, 1e6).eta_s is None


def test_totals_add_up_states_reasons_and_hours() -> None:
    lines = [
        RunStatus("a", "train", "queued", "Slurm job 7_1 is PENDING (Resources)", gpu_hours=1.0),
        RunStatus("b", "train", "queued", "Slurm job 7_2 is PENDING (Dependency)"),
        RunStatus("c", "train", "queued", "Slurm job 7_3 is PENDING (Resources)", gpu_hours_lost=0.5),
        RunStatus("d", "train", "running", "", eta_s=30.0),
        RunStatus("e", "train", "running", "", eta_s=90.0),
    ]
    totals = add_up(lines)
    assert totals.states == {"queued": 3, "running": 2}
    assert totals.waiting == {"Resources": 2, "Dependency": 1}
    assert (totals.runs, totals.gpu_hours, totals.gpu_hours_lost, totals.eta_s) == (5, 1.0, 0.5, 90.0)


@given(st.lists(st.builds(RunStatus, st.text(), st.just("train"), st.sampled_from(["new", "done"]), st.text())))
def test_no_run_is_left_out_of_the_totals(lines: list[RunStatus]) -> None:
    totals = add_up(lines)
    assert totals.runs == sum(totals.states.values()) == len(lines)
    assert totals.eta_s is None


@pytest.mark.parametrize("name", ["attempts.jsonl", "history.jsonl", "evaluation.jsonl", "heartbeat.json"])
@pytest.mark.parametrize("damage", [b"\xff", b"\0", b"null"])
def test_one_bad_line_of_one_run_costs_nothing_else(plan: Plan, name: str, damage: bytes) -> None:
    run = plan.run(next(iter(plan.of_stage("train"))))
    others = [line for line in read_status(plan.runs_root) if line.id != run.id]
    write_attempt(run.path, Attempt(1, "4_2", "n1", 100.0))
    with (run.path / name).open("ab") as file:
        file.write(damage + b"\n")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        lines = read_status(plan.runs_root)
    assert [line for line in lines if line.id != run.id] == others
    (own,) = (line for line in lines if line.id == run.id)
    assert own.attempts == 1
    if name == "heartbeat.json" and damage != b"null":
        assert own.state == "unknown" and "heartbeat.json" in own.why
