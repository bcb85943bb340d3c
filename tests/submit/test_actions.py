from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, SchedulerError
from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import read_status
from hpcseg.study.plan import Plan
from hpcseg.submit.actions import cancel, retry
from hpcseg.submit.record import record
from tests.arrays import write_new_array

HEADER = "JOBID|STATE|RESTARTCOUNT|NODELIST|START_TIME|REASON|UID|NAME|"
Planner = Callable[..., Plan]


@pytest.fixture
def plan(plan_study: Planner) -> Plan:
    """An applied sweep of a pack and two runs, which were planned and not submitted."""
    plan = plan_study("fold=[0, 1]")
    record(plan)
    for run_id in plan.stages:
        run = plan.run(run_id)
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text("{}")
    return plan


def submit(run: RunDir, **values: object) -> None:
    run.write_submission(Submission.model_validate({"backend": "local", "submitted": time.time(), **values}))


def submit_array(plan: Plan, job_id: str | None) -> list[RunDir]:
    """The two training runs as tasks 0 and 1 of an array."""
    runs = [plan.run(run_id) for run_id in plan.of_stage("train")]
    array = ArrayRecord(
        tag="train-a",
        stage="train",
        runs=tuple(run.id for run in runs),
        tasks=(0, 1),
        submitted=time.time(),
        host="elsewhere",
        submitter=Process(pid=1, pid_start=1.0),
        asked=Asked(minutes=1, memory_mb=1),
        job_id=job_id,
    )
    write_new_array(plan.runs_root, array)
    for task, run in enumerate(runs):
        submit(run, backend="slurm", array="train-a", task=task)
    return runs


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a squeue with these lines, and a scancel that empties it or does this, in front; returns its log."""
    tools, log = tmp_path / "tools", tmp_path / "scancel.log"
    tools.mkdir()
    log.touch()

    def say(squeue: str, scancel: str = "") -> Path:
        scancel = scancel or f"echo '{HEADER}' > {tmp_path}/queue"
        (tmp_path / "queue").write_text(f"{HEADER}\n{squeue}")
        (tools / "squeue").write_text(f"#!/bin/sh\ncat {tmp_path}/queue\n")
        (tools / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {log}\n{scancel}\n')
        (tools / "sacct").write_text("#!/bin/sh\nexit 1\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tools), prepend=":")
        return log

    return say


def test_cancelling_runs_on_slurm_calls_scancel_once_and_keeps_the_runs_from_beginning(
    plan: Plan, slurm_says: Callable[..., Path]
) -> None:
    log = slurm_says("7_[0-1]|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n")
    runs = submit_array(plan, "7")
    assert set(cancel(plan.runs_root, "study")) == {run.id for run in runs}
    assert log.read_text() == "7_[0-1]\n"
    assert all((found := run.submission()) is not None and found.cancelled is not None for run in runs)
    slurm_says("")
    assert [line.state for line in read_status(plan.runs_root) if line.stage == "train"] == ["stopped", "stopped"]


def test_a_job_whose_id_nobody_heard_is_cancelled_as_well(plan: Plan, slurm_says: Callable[..., Path]) -> None:
    log = slurm_says("9_[0-1]|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n")
    runs = submit_array(plan, None)
    assert cancel(plan.runs_root, runs[1].id) == [runs[1].id]
    assert log.read_text() == "9_[1]\n"


def test_a_job_of_the_same_id_that_is_another_ones_is_left_alone(plan: Plan, slurm_says: Callable[..., Path]) -> None:
    log = slurm_says("7_[0-1]|RUNNING|0||N/A|None|0|hpcseg-train-b|\n")
    submit_array(plan, "7")
    assert cancel(plan.runs_root, "study") == [] and log.read_text() == ""
    assert {line.state for line in read_status(plan.runs_root) if line.stage == "train"} == {"lost"}


def test_while_squeue_does_not_answer_nothing_is_cancelled_by_its_number(
    plan: Plan, slurm_says: Callable[..., Path]
) -> None:
    log = slurm_says("")
    (log.parent / "queue").write_text("")
    runs = submit_array(plan, "7")
    with pytest.raises(SchedulerError, match=r"2 jobs may be in the queue and were not cancelled.*squeue said nothing"):
        cancel(plan.runs_root, "study")
    assert log.read_text() == "" and all((s := run.submission()) is not None and s.cancelled for run in runs)


def test_what_runs_on_another_host_keeps_nothing_else_from_being_cancelled(
    plan: Plan, slurm_says: Callable[..., Path]
) -> None:
    log = slurm_says("7_[0-1]|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n")
    runs = submit_array(plan, "7")
    (pack,) = (plan.run(run_id) for run_id in plan.of_stage("pack"))
    submit(pack, host=socket.gethostname(), pool=Process.this())
    beat = Heartbeat("running", "pack", 1, 2, 0, None, None, time.time(), "elsewhere", pid=1, pid_start=1.0, attempt=1)
    (pack.path / "heartbeat.json").write_text(json.dumps(asdict(beat)))
    with pytest.raises(BadInput, match=f"{pack.id} runs on elsewhere; cancel there what runs there, all else is"):
        cancel(plan.runs_root, "study")
    assert log.read_text() == "7_[0-1]\n"
    assert all((found := run.submission()) is not None and found.cancelled for run in (*runs, pack))


def test_a_scancel_that_does_nothing_is_not_believed(
    plan: Plan, slurm_says: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcseg.submit.actions.CANCEL_WAIT_S", 0.0)
    slurm_says("7_[0-1]|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n", scancel="echo Welcome")
    submit_array(plan, "7")
    with pytest.raises(SchedulerError, match=r"2 jobs of 2 are in the queue as before \(7_0, 7_1\): cancel again"):
        cancel(plan.runs_root, "study")


def test_what_another_sweep_needs_is_left_and_named(
    plan: Plan, plan_study: Planner, slurm_says: Callable[..., Path]
) -> None:
    slurm_says("7_[0-1]|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n")
    first, second = submit_array(plan, "7")
    other = plan_study("fold=1")
    heading = other.sweep.heading.model_copy(update={"name": "other"})
    record(replace(other, sweep=replace(other.sweep, heading=heading)))
    notes: list[str] = []
    assert cancel(plan.runs_root, "study", notes.append) == [first.id]
    assert notes == [f"left, and part of other: {second.id}; name a run to cancel it all the same"]
    slurm_says("7_1|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n")
    assert cancel(plan.runs_root, "other", notes.append) == [second.id] and len(notes) == 1  # nobody else needs it now
    record(plan)
    submit_array(plan, "7")
    slurm_says("7_[0-1]|PENDING|0||N/A|Resources|0|hpcseg-train-a|\n")
    assert cancel(plan.runs_root, second.id, notes.append) == [second.id]
    assert notes[1:] == [f"cancelled, and part of study: {second.id}"]


def test_retry_frees_failed_runs_by_cause(plan: Plan) -> None:
    first, second = (plan.run(run_id) for run_id in plan.of_stage("train"))
    submit(first)
    first.write_error(MemoryError("no"))
    submit(second)
    second.write_error(ValueError("no"))
    assert retry(plan.runs_root, "study", "memory") == [first.id]
    assert {line.id: line.state for line in read_status(plan.runs_root) if line.stage == "train"} == {
        first.id: "stopped",
        second.id: "failed",
    }
    assert retry(plan.runs_root, "study") == [second.id]
    notes: list[str] = []
    assert retry(plan.runs_root, "study", note=notes.append) == []
    assert "no run has failed: " in notes[0] and "the same hpcseg sweep goes on" in notes[0]
    assert (second.path / "error.1.json").exists()


def test_retry_frees_a_run_that_only_another_host_knows(plan: Plan) -> None:
    pack = plan.run(next(iter(plan.stages)))
    submit(pack, host="gone", pool={"pid": 1, "pid_start": 1.0})
    assert read_status(plan.runs_root)[0].state == "unknown"
    assert retry(plan.runs_root, pack.id) == [pack.id]
    assert read_status(plan.runs_root)[0].state == "stopped"


def test_a_pattern_that_means_nothing_is_an_error(plan: Plan) -> None:
    for action in (cancel, retry):
        with pytest.raises(BadInput, match=r"no run or sweep in .* matches 'x'"):
            action(plan.runs_root, "x")
