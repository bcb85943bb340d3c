from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.sweeps.apply import apply, choose_backend
from hpcseg.sweeps.plan import Plan, make_plan
from hpcseg.sweeps.profile import Profile
from hpcseg.sweeps.queue import read_queue
from hpcseg.sweeps.rundir import RunDir
from hpcseg.sweeps.slurm import max_array_size, sbatch_parameters
from hpcseg.sweeps.status import cancel, newest_log, read_status
from hpcseg.sweeps.sweepfile import read_sweep
from hpcseg.training.checkpoint import load_checkpoint

PROFILE = Profile.model_validate(
    {
        "slurm": {
            "partition": "main",
            "setup": ["export HPCSEG_SET_UP=yes"],
            **{
                stage: {"time": 60, "cpus": 1, "memory": "900M", "gpus": gpus, "signal_lead": 30}
                for stage, gpus in (("pack", 0), ("pretrain", 1), ("train", 1))
            },
        }
    }
)
TWO_NODES = Profile.model_validate(
    {
        "slurm": {
            stage: {"time": 60, "cpus": 1, "memory": "900M", "gpus": 0, "nodes": nodes, "signal_lead": 30}
            for stage, nodes in (("pack", 1), ("train", 2))
        }
    }
)
Planner = Callable[..., Plan]
STUDY = (Path(__file__).parents[1] / "sweeps" / "study.toml").read_text()


@pytest.fixture
def plan_study(tmp_path: Path, tiny_dataset: Path) -> Planner:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return lambda *overrides: make_plan(read_sweep(path, overrides), tiny_dataset.parent, tmp_path / "runs")


def test_parameters_of_an_array_follow_from_the_profile() -> None:
    profile = Profile.model_validate(
        {"slurm": {"account": "a1", "flags": {"qos": "long"}, "train": {"time": "1-0", "flags": {"constraint": "x"}}}}
    )
    parameters = sbatch_parameters(profile.slurm, "train", ["12", "13_4"])
    assert parameters["dependency"] == "afterok:12:13_4"
    assert parameters["additional_parameters"] == {
        "requeue": True,
        "qos": "long",
        "constraint": "x",
        "kill-on-invalid-dep": "yes",
    }
    assert (parameters["time"], parameters["account"], parameters["gpus_per_node"]) == (1440, "a1", 1)
    assert "ntasks_per_node" not in parameters and parameters["srun_args"] == ["--cpus-per-task=8"]
    assert "dependency" not in sbatch_parameters(profile.slurm, "pack", [])
    assert "gpus_per_node" not in sbatch_parameters(profile.slurm, "pack", [])


def test_a_job_of_several_gpus_or_nodes_has_a_task_for_each_and_ends_with_the_first_that_fails() -> None:
    profile = Profile.model_validate({"slurm": {"train": {"gpus": 4, "nodes": 2}, "pretrain": {"gpus": 0, "nodes": 2}}})
    train, pretrain = (sbatch_parameters(profile.slurm, stage, []) for stage in ("train", "pretrain"))
    assert (train["nodes"], train["ntasks_per_node"], train["gpus_per_node"]) == (2, 4, 4)
    assert train["srun_args"] == ["--cpus-per-task=8", "--kill-on-bad-exit=1"]
    assert (pretrain["nodes"], pretrain["ntasks_per_node"]) == (2, 1) and "gpus_per_node" not in pretrain


def test_arrays_with_dependencies_run_to_the_end_and_applying_again_submits_nothing(
    slurm: object, plan_study: Planner, tmp_path: Path
) -> None:
    setup = (f"export NODE_DISK={tmp_path / 'node'}",)  # known to the job alone
    profile = PROFILE.model_copy(update={"slurm": PROFILE.slurm.model_copy(update={"setup": setup})})
    profile = profile.staged("$NODE_DISK")
    assert choose_backend("auto") == "slurm" and max_array_size() > 100
    settings = ("strategy=[baseline, transfer]", "fold=[0, 1]", "autoencoder.epochs=1", "autoencoder.steps=1")
    plan = plan_study(*settings, "preprocessing.spacing=[[4.0, 4.0, 4.0], [5.0, 5.0, 5.0]]")
    packs = Plan(plan.sweep, plan.runs_root, plan.of_stage("pack"), {})
    outcome = apply(packs, "slurm", PROFILE)
    assert len(outcome.submitted) == 2
    jobs = [job_of(packs.run(run_id)) for run_id in packs.stages]
    assert len({job.partition("_")[0] for job in jobs}) == 1  # one array

    plan = plan_study(*settings)
    outcome = apply(plan, "slurm", profile)
    pack = next(iter(plan.of_stage("pack")))
    assert pack not in outcome.submitted and len(outcome.submitted) == 2 + 4
    assert apply(plan_study(*settings), "slurm", PROFILE).submitted == ()
    waiting = [line for line in read_status(plan.runs_root) if line.stage == "train"]
    assert {line.state for line in waiting} <= {"queued", "running"}

    slurm.wait(lambda: all(plan.run(run_id).is_done() for run_id in plan.stages), 90.0)  # type: ignore[attr-defined]
    assert {line.state for line in read_status(plan.runs_root)} == {"done"}
    assert apply(plan_study(*settings), "slurm", PROFILE).submitted == ()
    train = plan.run(next(iter(plan.of_stage("train"))))
    assert json.loads((train.path / "result.json").read_text())["id"] == train.id
    (reading,) = json.loads((train.path / "training.json").read_text())["reading"]
    assert reading["path"].startswith(str(tmp_path / "node"))
    assert "srun" not in newest_log(train).name
    assert newest_log(train).parent.parent == plan.runs_root / "slurm"


def test_usr2_saves_and_requeues_and_a_cancelled_job_stays_stopped(slurm: object, plan_study: Planner) -> None:
    settings = ("training.epochs=100000", "preprocessing.spacing=6.0")
    plan = plan_study(*settings)
    apply(plan, "slurm", PROFILE)
    train = plan.run(next(iter(plan.of_stage("train"))))

    def training_in(attempt: int, run: RunDir = train) -> bool:
        heartbeat = run.heartbeat()
        return heartbeat is not None and heartbeat.attempt == attempt and heartbeat.phase == "training"

    slurm.wait(lambda: training_in(1))  # type: ignore[attr-defined]
    job = job_of(train)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    slurm.wait(lambda: training_in(2), 90.0)  # type: ignore[attr-defined]
    heartbeat = train.heartbeat()
    assert heartbeat is not None and heartbeat.step > 2
    assert [line.state for line in read_status(plan.runs_root, ["study"]) if line.id == train.id] == ["running"]

    assert cancel(plan.runs_root, train.id) == [train.id]
    slurm.wait(lambda: job not in read_queue().jobs)  # type: ignore[attr-defined]
    assert [line.state for line in read_status(plan.runs_root) if line.id == train.id] == ["stopped"]


def test_two_tasks_on_two_nodes_train_one_run_and_are_requeued_together(slurm: object, plan_study: Planner) -> None:
    plan = plan_study("training.epochs=100000", "preprocessing.spacing=8.0")
    apply(plan, "slurm", TWO_NODES)
    train = plan.run(next(iter(plan.of_stage("train"))))

    def step_in(attempt: int) -> int:
        heartbeat = train.heartbeat()
        return heartbeat.step if heartbeat is not None and heartbeat.attempt == attempt else 0

    slurm.wait(lambda: step_in(1) > 2, 90.0)  # type: ignore[attr-defined]
    job = job_of(train)
    submission = train.submission()
    assert submission is not None and submission.ranks == 2
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    slurm.wait(lambda: step_in(2) > 2, 90.0)  # type: ignore[attr-defined]
    state = load_checkpoint(train.path)
    assert state is not None and state["progress"]["rank_seconds"] == 2 * state["progress"]["seconds"]
    assert cancel(plan.runs_root, train.id) == [train.id]
    slurm.wait(lambda: job not in read_queue().jobs)  # type: ignore[attr-defined]
    assert [line.state for line in read_status(plan.runs_root) if line.id == train.id] == ["stopped"]
    assert train.failure() is None


def test_a_job_ends_when_one_of_its_tasks_is_killed(slurm: object, plan_study: Planner) -> None:
    plan = plan_study("training.epochs=100000", "preprocessing.spacing=9.0")
    apply(plan, "slurm", TWO_NODES)
    train = plan.run(next(iter(plan.of_stage("train"))))
    slurm.wait(lambda: (beat := train.heartbeat()) is not None and beat.step > 2, 90.0)  # type: ignore[attr-defined]
    os.kill(process_of(train, 1), signal.SIGKILL)
    job = job_of(train)
    slurm.wait(lambda: job not in read_queue().jobs)  # type: ignore[attr-defined]
    (line,) = (line for line in read_status(plan.runs_root) if line.id == train.id)
    assert line.state == "failed" and "rank 0 of 2: another rank ended" in line.why


def job_of(run: RunDir) -> str:
    """Slurm's id (array_task) of a run."""
    job = run.evidence().job
    assert job is not None
    return job


def process_of(run: RunDir, rank: int) -> int:
    """The process of one rank of a running job; all nodes are this host."""
    array, _, task = job_of(run).partition("_")
    wanted = {f"SLURM_PROCID={rank}"} | ({f"SLURM_ARRAY_JOB_ID={array}"} if task else {f"SLURM_JOB_ID={array}"})
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = set((folder / "environ").read_text(errors="replace").split("\0"))
            command = (folder / "cmdline").read_text(errors="replace")
            if wanted <= variables and "submitit.core._submit" in command:
                return int(folder.name)
    raise LookupError(f"no process of rank {rank} of job {job_of(run)}")


def test_a_job_whose_ancestor_failed_leaves_the_queue_and_is_blocked(
    slurm: object, write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    image = data / "imagesTr" / "case_001.nii.gz"
    image.write_bytes(image.read_bytes()[:-500])
    (tmp_path / "study.toml").write_text(STUDY)
    plan = make_plan(read_sweep(tmp_path / "study.toml"), data.parent, tmp_path / "runs")
    apply(plan, "slurm", PROFILE)
    slurm.wait(lambda: {line.state for line in read_status(plan.runs_root)} == {"failed", "blocked"})  # type: ignore[attr-defined]
    job = job_of(plan.run(next(iter(plan.of_stage("train")))))
    slurm.wait(lambda: job not in read_queue().jobs)  # type: ignore[attr-defined]
    assert all("case_001.nii.gz" in line.why for line in read_status(plan.runs_root))


def test_a_queue_that_does_not_answer_kills_no_run(
    slurm: object, plan_study: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = plan_study("preprocessing.spacing=7.0")
    profile = PROFILE.model_copy(update={"slurm": PROFILE.slurm.model_copy(update={"flags": {"hold": True}})})
    apply(plan, "slurm", profile)
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Socket timed out' >&2\nexit 1\n")
    (broken / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(broken), prepend=":")
    states = {line.state for line in read_status(plan.runs_root)}
    assert states == {"unknown"}
    assert all(planned.to_submit is False for planned in plan_study("preprocessing.spacing=7.0").stages.values())
    monkeypatch.undo()
    assert set(cancel(plan.runs_root, "*")) == set(plan.stages)
