"""What the batch script decides, on the files that a job leaves; Slurm itself answers in tests/slurm."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpcseg.errors import SchedulerError, StageFailed
from hpcseg.jobs import aftermath, requeue
from hpcseg.runs.attempts import Attempt, read_attempts, write_attempt
from hpcseg.runs.ends import End
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import JobFacts, SlurmJob
from hpcseg.study.plan import Plan
from hpcseg.training.control import Control
from tests.arrays import write_new_array

JOB = SlurmJob("7_2", "hpcseg-pack-0badcafe", node="n1", memory_mb=1000, partition="main")
KILLED_FOR_MEMORY = "slurmstepd-n1: error: StepId=7.0 exceeded memory limit (4 > 2), being killed\n"
RUNS = JobFacts("RUNNING", "None")


class Scheduler:
    """Stands in for the controller, which these tests do without."""

    def __init__(self) -> None:
        self.facts: JobFacts | None = RUNS
        self.requeued: list[tuple[str, int | None]] = []

    def requeue(self, task: str, memory_mb: int | None, exclude: tuple[str, ...], wait_s: float) -> str:
        assert wait_s == 8.0, "nothing here is at a limit that is known"
        self.requeued.append((task, memory_mb))
        return "requeued"


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    found = Scheduler()
    monkeypatch.setattr(aftermath, "ask_about", lambda task: found.facts)
    monkeypatch.setattr(requeue, "requeue", found.requeue)
    monkeypatch.setattr(requeue, "read_nodes", lambda partition: [])
    return found


@pytest.fixture
def array(plan_packs: Callable[..., Plan]) -> tuple[RunDir, ArrayRecord]:
    """A pack, submitted as task 2 of an array."""
    plan = plan_packs()
    (run_id,) = plan.stages
    run = plan.run(run_id)
    run.path.mkdir(parents=True)
    (run.path / "run.json").write_text(plan.stages[run_id].spec.model_dump_json())
    record = ArrayRecord(
        tag="pack-0badcafe",
        stage="pack",
        runs=(run_id,),
        tasks=(2,),
        submitted=time.time(),
        host="login",
        submitter=Process.this(),
        asked=Asked(minutes=60, memory_mb=1000),
        job_id="7",
    )
    write_new_array(plan.runs_root, record)
    run.write_submission(Submission(backend="slurm", submitted=time.time(), array=record.tag, task=2))
    return run, record


def begun(run: RunDir, log: str = "") -> Attempt:
    """This job's attempt, which left no end, and what it and others wrote."""
    attempt = Attempt(1, JOB.task, "n1", time.time() - 60, memory_mb=1000, array="pack-0badcafe")
    write_attempt(run.path, attempt)
    Control(run.path).beat(phase="pack")
    (log_of(run)).write_text(log)
    return attempt


def log_of(run: RunDir) -> Path:
    return run.runs_root / "slurm" / "pack-0badcafe" / "7_2_0_log.err"


def causes(run: RunDir) -> list[str | None]:
    return [attempt.cause for attempt in read_attempts(run.path)]


def test_a_job_that_was_killed_for_its_memory_gets_more_until_the_budget_ends(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler
) -> None:
    run, record = array
    for restart in range(5):
        attempt = Attempt(1 + restart, JOB.task, "n1", time.time(), restart, memory_mb=1000, array="pack-0badcafe")
        write_attempt(run.path, attempt)
        log_of(run).write_text(KILLED_FOR_MEMORY)
        aftermath.look_after(run, replace(JOB, restart=restart), record, 137, {})
    assert scheduler.requeued == [(JOB.task, 1500)] * 3
    failure = run.failure()
    assert set(causes(run)) == {"memory"} and failure is not None and failure.cause == "memory"
    assert failure.message.startswith("used up the host memory 5 times, the last time 1000 MB: give more memory")


def test_what_the_job_said_itself_counts(array: tuple[RunDir, ArrayRecord], scheduler: Scheduler) -> None:
    run, record = array
    attempt = begun(run)
    write_attempt(run.path, replace(attempt, cause="input", detail="a scan", ended=time.time()))
    aftermath.look_after(run, JOB, record, 1, {})
    assert causes(run) == ["input"] and scheduler.requeued == []


def test_an_error_that_follows_from_a_killed_worker_is_a_matter_of_memory(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler
) -> None:
    run, record = array
    attempt = begun(run, "slurmstepd: error: Detected 1 oom-kill event(s)\nSubmitted job triggered an exception\n")
    run.write_error(RuntimeError("a worker died"))
    write_attempt(run.path, replace(attempt, cause="python", detail="a worker died", ended=time.time()))
    aftermath.look_after(run, JOB, record, 1, {})
    assert causes(run) == ["memory"] and scheduler.requeued == [(JOB.task, 1500)] and run.failure() is None


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (JobFacts("COMPLETING", "None"), "cancelled"),
        (JobFacts("COMPLETING", "None", restarts=1), "requeued"),
    ],
)
def test_a_job_that_slurm_ends_is_not_requeued(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler, facts: JobFacts, cause: str
) -> None:
    run, record = array
    begun(run)
    scheduler.facts = facts
    aftermath.look_after(run, JOB, record, 137, {})
    assert causes(run) == [cause] and scheduler.requeued == [] and run.failure() is None


@pytest.mark.parametrize(("restarts", "requeued"), [(0, [(JOB.task, None)]), (1, [])])
def test_a_job_that_preemption_cancelled_goes_back_to_the_queue(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler, restarts: int, requeued: list[tuple[str, int | None]]
) -> None:
    run, record = array
    begun(run, "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-23T09:00:27 DUE TO PREEMPTION ***\n")
    scheduler.facts = JobFacts("COMPLETING", "None", restarts, preempted=True)
    aftermath.look_after(run, JOB, record, 137, {})
    assert causes(run) == ["preempted"] and scheduler.requeued == requeued and run.failure() is None


def test_a_job_killed_at_its_limit_goes_on_if_it_got_on(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler
) -> None:
    run, record = array
    log = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-23T09:00:27 DUE TO TIME LIMIT ***\n"
    attempt = begun(run, log)
    scheduler.facts = JobFacts("COMPLETING", "TimeLimit")
    aftermath.look_after(run, JOB, record, 0, {})
    assert causes(run) == ["timeout"] and scheduler.requeued == [(JOB.task, None)]
    write_attempt(run.path, replace(attempt, number=2, restart=1))
    aftermath.look_after(run, replace(JOB, restart=1), record, 0, {})
    failure = run.failure()
    assert len(scheduler.requeued) == 1 and failure is not None and failure.cause == "timeout"
    assert "2 attempts in a row came to the time limit of 60 min without progress" in failure.message


def test_a_job_that_never_began_says_why(array: tuple[RunDir, ArrayRecord], scheduler: Scheduler) -> None:
    run, record = array
    log_of(run).write_text("bash: apptainer: command not found\nsrun: error: n1: task 0: Exited with exit code 127\n")
    for restart in range(3):
        aftermath.look_after(run, replace(JOB, restart=restart), record, 127, {})
    failure = run.failure()
    assert len(scheduler.requeued) == 2 and causes(run) == ["unbegun"] * 3 and failure is not None
    assert failure.cause == "unbegun" and failure.message == (
        "3 times in a row hpcseg did not begin in its job, last on n1: bash: apptainer: command not found"
    )
    assert read_attempts(run.path)[0].detail == "bash: apptainer: command not found"


def test_of_a_job_that_never_began_only_what_its_own_start_wrote_counts(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler
) -> None:
    run, record = array
    before = "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-23T09:00:27 DUE TO JOB REQUEUE ***\n"
    log_of(run).write_text(before)
    began = {log_of(run).name: len(before)}
    with log_of(run).open("a") as log:
        log.write("slurmstepd: error: execve(): /gone/python: No such file or directory\n")
    for restart in range(1, 30):  # as often as it may be requeued
        aftermath.look_after(run, replace(JOB, restart=restart), record, 2, began)
    assert len(scheduler.requeued) == 2 and set(causes(run)) == {"unbegun"}
    failure = run.failure()
    assert failure is not None and failure.message.endswith("execve(): /gone/python: No such file or directory")


def test_nothing_is_said_about_a_run_that_somebody_else_has(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler
) -> None:
    run, record = array
    lock = run.lock(0.0)
    aftermath.look_after(run, JOB, record, 1, {})  # another process works on it
    lock.release()
    submission = run.submission()
    assert submission is not None
    run.write_submission(submission.model_copy(update={"array": "pack-00000000"}))
    aftermath.look_after(run, JOB, record, 1, {})  # another job has it
    assert causes(run) == [] and scheduler.requeued == [] and run.failure() is None


def test_a_cancelled_job_is_cancelled_whatever_killed_it() -> None:
    killed, limit = End("killed", "ended by SIGKILL"), End("timeout", "…")
    assert aftermath.corrected_end(killed, JOB, RUNS, 1.0).cause == "cancelled"
    assert aftermath.corrected_end(killed, JOB, None, None) == killed
    assert aftermath.corrected_end(killed, JOB, JobFacts("COMPLETING", "TimeLimit"), None).cause == "timeout"
    assert aftermath.corrected_end(limit, JOB, JobFacts("COMPLETING", "TimeLimit"), None) == limit
    assert aftermath.corrected_end(End("preempted", "…"), JOB, RUNS, 1.0).cause == "preempted"


def test_a_job_that_slurm_has_requeued_by_itself_has_not_failed(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a node fails, and the rank on another one sees only that its fellow is gone."""

    def refuse(*_: object) -> str:
        raise SchedulerError("7_2: Job is pending execution")

    run, record = array
    attempt = begun(run)
    monkeypatch.setattr(requeue, "requeue", refuse)
    monkeypatch.setattr(requeue, "ask_about", lambda task: replace(RUNS, state="PENDING", restarts=1))
    assert "requeued it by itself" in requeue.requeue_or_fail(run, JOB, record, "killed")
    assert run.failure() is None and attempt.cause is None
    monkeypatch.setattr(requeue, "ask_about", lambda task: RUNS)
    with pytest.raises(StageFailed, match="Slurm did not take it back"):
        requeue.requeue_or_fail(run, JOB, record, "killed")


def test_it_says_whether_the_run_is_done_all_the_same(
    array: tuple[RunDir, ArrayRecord], scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, record = array
    monkeypatch.setattr(aftermath, "slurm_job", lambda: JOB)
    words = [str(run.runs_root / "slurm" / record.tag), "137"]
    monkeypatch.setattr("hpcseg.jobs.aftermath.signal.signal", lambda *_: None)
    assert aftermath.main(words) == 1
    (run.path / "store.h5").touch()
    run.mark_done()
    assert aftermath.main(words) == 0


def test_outside_a_job_it_explains_itself_and_starts_fast(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hpcseg.jobs.aftermath", str(tmp_path), "1"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and "FOLDER CODE" in answer.stderr
    heavy = "print({'torch', 'numpy', 'submitit', 'h5py'} & set(sys.modules))"
    command = [sys.executable, "-c", f"import sys, hpcseg.jobs.aftermath; {heavy}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
