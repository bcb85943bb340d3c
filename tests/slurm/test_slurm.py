"""Runs of several nodes, an ancestor that fails, and a queue that does not answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.paths import STAGES
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import RunStatus, read_status
from hpcseg.slurm.queue import read_queue
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.actions import cancel
from hpcseg.submit.apply import apply, choose_backend
from hpcseg.submit.profile import Profile
from hpcseg.training.checkpoint import load_checkpoint
from tests.slurm.cluster import Cluster

RESOURCES = {stage: {"time": 60, "cpus": 1, "memory": "900M", "gpus": 0} for stage in STAGES}
PROFILE = Profile.model_validate({"slurm": RESOURCES})
HELD = Profile.model_validate({"slurm": RESOURCES | {"flags": {"hold": True}}})
TWO_NODES = Profile.model_validate({"slurm": RESOURCES | {"train": RESOURCES["train"] | {"nodes": 2}}})
STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
Planner = Callable[..., Plan]


@pytest.fixture
def plan_study(tmp_path: Path, tiny_dataset: Path) -> Planner:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return lambda *overrides, data=tiny_dataset.parent: make_plan(read_sweep(path, overrides), data, tmp_path / "runs")


def job_of(run: RunDir) -> str:
    """Slurm's id (array_task) of a run."""
    job = run.evidence().job
    assert job is not None
    return job


def test_two_tasks_on_two_nodes_train_one_run_and_end_together(slurm: Cluster, plan_study: Planner) -> None:
    assert choose_backend("auto") == "slurm"
    plan = plan_study("training.epochs=100000")
    apply(plan, "slurm", TWO_NODES)
    train = plan.run(next(iter(plan.of_stage("train"))))

    def trains_in(attempt: int) -> bool:
        heartbeat = train.heartbeat()
        return heartbeat is not None and heartbeat.attempt == attempt and heartbeat.step > 2

    slurm.wait(lambda: trains_in(1))
    job = job_of(train)
    submission = train.submission()
    assert submission is not None and submission.ranks == 2
    slurm.call("scancel", "--signal=USR2", job)
    slurm.wait(lambda: trains_in(2))
    state = load_checkpoint(train.path)
    assert state is not None and state["progress"]["rank_seconds"] == 2 * state["progress"]["seconds"]

    def line() -> RunStatus:
        return next(line for line in read_status(plan.runs_root) if line.id == train.id)

    os.kill(slurm.job_process(job, rank=1), signal.SIGKILL)
    slurm.wait(lambda: line().state == "requeued")
    assert "killed" in line().why
    # The leader's loss is the same, though it cannot say so itself.
    slurm.wait(lambda: trains_in(3))
    os.kill(slurm.job_process(job, rank=0), signal.SIGKILL)
    slurm.wait(lambda: line().state in {"requeued", "failed"})
    assert line().state == "requeued" and "killed" in line().why, line()
    assert cancel(plan.runs_root, train.id) == [train.id]
    slurm.wait(lambda: job not in read_queue().jobs)
    assert line().state == "stopped" and train.failure() is None
    assert [attempt.cause for attempt in read_attempts(train.path)] == ["requeued", "killed", "killed"]


def test_a_job_whose_ancestor_failed_leaves_the_queue_and_is_blocked(
    slurm: Cluster, plan_study: Planner, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    image = data / "imagesTr" / "case_001.nii.gz"
    image.write_bytes(image.read_bytes()[:-500])
    plan = plan_study(data=data.parent)
    apply(plan, "slurm", PROFILE)
    slurm.wait(lambda: {line.state for line in read_status(plan.runs_root)} == {"failed", "blocked"})
    job = job_of(plan.run(next(iter(plan.of_stage("train")))))
    slurm.wait(lambda: job not in read_queue().jobs)
    assert all("case_001.nii.gz" in line.why for line in read_status(plan.runs_root))


def test_a_queue_that_does_not_answer_kills_no_run(
    slurm: Cluster, plan_study: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = plan_study()
    apply(plan, "slurm", HELD)
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Socket timed out' >&2\nexit 1\n")
    (broken / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(broken), prepend=":")
    assert {line.state for line in read_status(plan.runs_root)} == {"unknown"}
    assert all(planned.to_submit is False for planned in plan_study().stages.values())
    monkeypatch.undo()
    assert set(cancel(plan.runs_root, "*")) == set(plan.stages)
