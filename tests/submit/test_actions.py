from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission, write_array
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import read_status
from hpcseg.study.plan import Plan
from hpcseg.submit.actions import cancel, retry
from hpcseg.submit.record import record

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
    write_array(plan.runs_root, array)
    for task, run in enumerate(runs):
        submit(run, backend="slurm", array="train-a", task=task)
    return runs


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a squeue with this answer, and a scancel that does this, in front; returns the log of scancel's calls."""
    tools, log = tmp_path / "tools", tmp_path / "scancel.log"
    tools.mkdir()
    log.touch()

    def say(squeue: str, scancel: str = "exit 0") -> Path:
        (tools / "squeue").write_text(f"#!/bin/sh\nprintf '{squeue}'\n")
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
    log = slurm_says("7_[0-1]|PENDING|0||N/A|Resources|hpcseg-train-a|\\n")
    runs = submit_array(plan, "7")
    assert set(cancel(plan.runs_root, "study")) == {run.id for run in runs}
    assert log.read_text() == "7_[0-1]\n"
    assert all((found := run.submission()) is not None and found.cancelled is not None for run in runs)
    slurm_says("")
    assert [line.state for line in read_status(plan.runs_root) if line.stage == "train"] == ["stopped", "stopped"]


def test_a_job_whose_id_nobody_heard_is_cancelled_as_well(plan: Plan, slurm_says: Callable[..., Path]) -> None:
    log = slurm_says("9_[0-1]|PENDING|0||N/A|Resources|hpcseg-train-a|\\n")
    runs = submit_array(plan, None)
    assert cancel(plan.runs_root, runs[1].id) == [runs[1].id]
    assert log.read_text() == "9_[1]\n"


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
