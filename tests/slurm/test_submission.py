"""Every run is submitted exactly once, whatever happens to sbatch, to hpcseg and to the controller."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpcseg.errors import SchedulerError
from hpcseg.runs import attempts
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.records import ArrayRecord, read_array
from hpcseg.runs.states import read_states
from hpcseg.slurm import nodes
from hpcseg.slurm.queue import Queue, read_queue
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.apply import apply
from hpcseg.training.control import Control
from tests.slurm.cluster import Cluster, missing_programs, running_cluster
from tests.slurm.profiles import profile_of
from tests.waiting import PATIENCE_S

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
LONG = "training.epochs=100000"
Planner = Callable[..., Plan]
Wrapper = Callable[[str], None]


PROFILE = profile_of()
HELD = profile_of(flags={"hold": True})


@pytest.fixture
def plan_study(tmp_path: Path, tiny_dataset: Path) -> Planner:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return lambda *overrides: make_plan(read_sweep(path, overrides), tiny_dataset.parent, tmp_path / "runs")


@pytest.fixture
def plan_packs(plan_study: Planner) -> Planner:
    """Two packs: real jobs of a second or two."""

    def plan() -> Plan:
        full = plan_study("preprocessing.spacing=[[4.0, 4.0, 4.0], [5.0, 5.0, 5.0]]")
        return Plan(full.sweep, full.runs_root, full.of_stage("pack"), {})

    return plan


@pytest.fixture
def wrap_sbatch(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrapper:
    """Have a shell script called in place of sbatch; it finds the real one in $REAL."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()

    def wrap(text: str) -> None:
        (folder / "sbatch").write_text(f"#!/bin/bash\nREAL={real}\n{text}\n")
        (folder / "sbatch").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return wrap


def names(queue: Queue) -> Counter[str]:
    """How many jobs each array has in the queue, by the array's tag."""
    return Counter(entry.name.removeprefix("hpcseg-") for entry in queue.jobs.values())


def record_of(plan: Plan, run_id: str) -> ArrayRecord:
    submission = plan.run(run_id).submission()
    assert submission is not None
    record = read_array(plan.runs_root, submission.array)
    assert record is not None
    return record


def assert_each_queued_once(plan: Plan) -> None:
    """Every run has one job in the queue, its own, and the queue has no other job."""
    queue = read_queue()
    verdicts = read_states([plan.run(run_id) for run_id in plan.stages]).verdicts
    assert {verdict.state for verdict in verdicts.values()} <= {"queued", "held"}
    assert sorted(verdict.job for verdict in verdicts.values()) == sorted(queue.jobs)
    assert all(record_of(plan, run_id).job_id == verdicts[run_id].job.partition("_")[0] for run_id in plan.stages)


def test_an_array_that_slurm_made_though_sbatch_failed_is_adopted_and_runs_once(
    slurm: Cluster, plan_packs: Planner, wrap_sbatch: Wrapper, tmp_path: Path
) -> None:
    controller = (slurm.folder / "ctld.pid").read_text().strip()
    wrap_sbatch(
        f"kill -STOP {controller}\n"
        '$REAL "$@"; code=$?\n'
        f"kill -CONT {controller}; echo $code > {tmp_path}/code; exit $code"
    )
    plan = plan_packs()
    outcome = apply(plan, "slurm", PROFILE)
    assert sorted(outcome.submitted) == sorted(plan.stages) and (tmp_path / "code").read_text() != "0\n"
    assert record_of(plan, next(iter(plan.stages))).job_id is not None
    assert len(names(read_queue())) <= 1
    slurm.wait(lambda: all(plan.run(run_id).is_done() for run_id in plan.stages))
    arrays = list((plan.runs_root / "slurm").glob("*/array.json"))
    made = f"--name=hpcseg-{arrays[0].parent.name}"
    assert len(arrays) == 1 and slurm.call("squeue", "--noheader", "--array", "--states=all", made).count("hpcseg") == 2


def test_a_ghost_that_appears_when_its_runs_were_submitted_again_does_nothing(
    slurm: Cluster, plan_packs: Planner, wrap_sbatch: Wrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap_sbatch("echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1")
    plan = plan_packs()
    with pytest.raises(SchedulerError, match="Socket timed out"):
        apply(plan, "slurm", PROFILE)
    ghost = record_of(plan, next(iter(plan.stages)))
    assert ghost.refused and not read_queue().jobs
    wrap_sbatch('exec $REAL "$@"')
    assert len(apply(plan_packs(), "slurm", HELD).submitted) == 2
    slurm.call("sbatch", str(plan.runs_root / "slurm" / ghost.tag / "script.sh"))
    slurm.wait(lambda: names(read_queue())[ghost.tag] == 2)
    slurm.wait(lambda: names(read_queue())[ghost.tag] == 0)
    assert_each_queued_once(plan)
    assert not any((plan.run(run_id).path / "heartbeat.json").exists() for run_id in plan.stages)


def test_many_sweeps_at_once_submit_every_run_once_though_two_of_them_are_killed(
    slurm: Cluster, plan_study: Planner, wrap_sbatch: Wrapper, tmp_path: Path, storm: Callable[[int, int], int]
) -> None:
    count = storm(5, 10)
    # The first sbatch is never called, the second is; both times hpcseg dies before it hears of it.
    wrap_sbatch(
        f"cd {tmp_path}\n"
        "mkdir first 2>/dev/null && { kill -9 $PPID; exit; }\n"
        'mkdir second 2>/dev/null && { kill -STOP $PPID; $REAL "$@" >/dev/null; kill -9 $PPID; exit; }\n'
        'exec $REAL "$@"'
    )
    settings = "strategy=[baseline, transfer]", "fold=[0, 1]", "autoencoder.epochs=1"
    plan = plan_study(*settings)
    profile = tmp_path / "held.toml"
    profile.write_text("[slurm.flags]\nhold = true\n[slurm.pretrain]\ncpus = 1\n[slurm.train]\ncpus = 1\n")
    command = [sys.executable, "-m", "hpcseg", "sweep", str(tmp_path / "study.toml"), "--on", "slurm", "--json"]
    command += ["--jobs", str(profile), "--data", str(plan_data(plan_study)), "--runs", str(plan.runs_root)]
    command += [word for setting in settings for word in ("--set", setting)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(count)
    ]
    answers = [process.communicate(timeout=PATIENCE_S) for process in processes]
    codes = Counter(process.returncode for process in processes)
    assert codes == {0: count - 2, -9: 2}, [error for _, error in answers]
    submitted = [run for out, _ in answers if out for run in json.loads(out)["submitted"]]
    assert len(submitted) == len(set(submitted)) and set(submitted) <= set(plan.stages)
    assert_each_queued_once(plan)
    refused = [path for path in plan.runs_root.glob("slurm/*/array.json") if json.loads(path.read_text())["refused"]]
    assert refused


def plan_data(plan_study: Planner) -> Path:
    """Folder of the datasets that plans are made from."""
    pack = next(iter(plan_study().of_stage("pack").values())).spec
    return Path(pack.cases[0].image).parents[2]


def test_tasks_wait_for_the_same_task_in_a_container_with_the_profiles_flags(
    slurm: Cluster, plan_study: Planner, tmp_path: Path
) -> None:
    container = tmp_path / "a container"
    container.write_text(f'#!/bin/bash\necho "$SLURM_JOB_NAME" >> {tmp_path}/contained\nexec "${{@:2}}"\n')
    container.chmod(0o755)
    setup = [f"echo $SLURM_ARRAY_TASK_ID >> {tmp_path}/set-up"]
    profile = profile_of(
        container=f"'{container}' exec",
        python=sys.executable,
        setup=setup,
        flags={"comment": "a study"},
        pack={"time": 60, "cpus": 1, "memory": "900M", "gpus": 0, "flags": {"hold": True}},
    )
    settings = ("preprocessing.spacing=[[4.0, 4.0, 4.0], [5.0, 5.0, 5.0]]",)
    plan = plan_study(*settings)
    apply(plan, "slurm", profile)
    verdicts = read_states([plan.run(run_id) for run_id in plan.stages]).verdicts
    packs, trains = (list(plan.of_stage(stage)) for stage in ("pack", "train"))
    array = record_of(plan, packs[0]).job_id
    shown = slurm.call("scontrol", "show", "job", str(record_of(plan, trains[0]).job_id))
    assert f"Dependency=aftercorr:{array}_*" in shown and "Comment=a study" in shown
    slurm.call("scancel", verdicts[packs[1]].job)
    slurm.call("scontrol", "release", verdicts[packs[0]].job)
    slurm.wait(lambda: plan.run(trains[0]).is_done())
    slurm.wait(lambda: not read_queue().jobs)
    assert [plan.run(run_id).is_done() for run_id in (*packs, *trains)] == [True, False, True, False]
    assert len((tmp_path / "contained").read_text().split()) == len((tmp_path / "set-up").read_text().split()) == 2
    outcome = apply(plan_study(*settings), "slurm", HELD)
    assert outcome.submitted == (packs[1], trains[1])


def test_a_job_whose_ancestor_is_submitted_again_is_replaced(slurm: Cluster, plan_study: Planner) -> None:
    plan = plan_study()
    apply(plan, "slurm", HELD)
    before = read_states([plan.run(run_id) for run_id in plan.stages]).verdicts
    pack, train = plan.stages
    keep = profile_of(flags={"hold": True, "kill-on-invalid-dep": "no"})
    slurm.call("scancel", before[pack].job)
    outcome = apply(plan_study(), "slurm", keep)
    assert outcome.submitted == (pack, train)
    slurm.wait(lambda: before[train].job not in read_queue().jobs)
    assert_each_queued_once(plan)


def test_what_earlier_attempts_taught_is_asked_for(slurm: Cluster, plan_study: Planner) -> None:
    settings = ("preprocessing.spacing=[[4.0, 4.0, 4.0], [5.0, 5.0, 5.0]]",)
    plan = plan_study(*settings)
    assert len(apply(plan, "slurm", HELD).submitted) == 4
    starved, other = plan.of_stage("train")
    attempt = Attempt(number=1, job="1_0", node="n1", began=1.0, memory_mb=900)
    attempts.write_attempt(plan.run(starved).path, attempt)
    attempts.write_attempt(plan.run(starved).path, replace(attempt, cause="memory", detail="used up 900 MB", ended=2.0))
    control = Control(plan.run(other).path)
    control.saved(20.0, 1000)
    control.beat(phase="training")
    control.close("stopped")
    nodes.remember_bad(plan.runs_root, "n1", "node failure", "1_0", time.time())
    slurm.call("scancel", "--me")
    assert len(apply(plan_study(*settings), "slurm", HELD).submitted) == 4
    shown = {
        run_id: slurm.call("scontrol", "show", "job", str(record_of(plan, run_id).job_id)) for run_id in plan.stages
    }
    assert all("ExcNodeList=n1" in text for text in shown.values())
    assert "MinMemoryNode=1350M" in shown[starved] and "MinMemoryNode=900M" in shown[other]
    scripts = {i: plan.runs_root / "slurm" / record_of(plan, i).tag / "script.sh" for i in plan.stages}
    leads = {i: path.read_text().partition("USR2@")[2].split()[0] for i, path in scripts.items()}
    assert leads == {i: "110" if i in {starved, other} else "30" for i in plan.stages}


def test_scancel_and_the_same_sweep_at_once_go_on_in_the_same_run(slurm: Cluster, plan_study: Planner) -> None:
    plan = plan_study(LONG)
    apply(plan, "slurm", PROFILE)
    _pack, train = (plan.run(run_id) for run_id in plan.stages)

    def training_in(attempt: int) -> bool:
        beat = train.heartbeat()
        return beat is not None and beat.attempt == attempt and beat.phase == "training" and beat.epoch > 1

    slurm.wait(lambda: training_in(1))
    first = read_states([train]).verdicts[train.id]
    assert first.state == "running"
    slurm.call("scancel", first.job)
    notes: list[str] = []
    slurm.wait(lambda: read_states([train]).verdicts[train.id].ending)
    outcome = apply(plan_study(LONG), "slurm", PROFILE, say=notes.append)
    assert outcome.submitted == (train.id,) and "COMPLETING" in notes[0]
    slurm.wait(lambda: training_in(2))
    assert list(read_queue().jobs) == [read_states([train]).verdicts[train.id].job] != [first.job]


def test_arrays_are_split_where_the_cluster_allows_no_larger_ones_and_a_refusal_says_what_slurm_said(
    plan_study: Planner,
) -> None:
    if missing := missing_programs():
        pytest.skip(f"no Slurm here ({', '.join(missing)} missing)")
    with running_cluster(settings={"MaxArraySize": "3"}) as cluster, cluster.current():
        settings = ("seed=[0, 1, 2, 3, 4, 5, 6]",)
        plan = plan_study(*settings)
        with pytest.raises(SchedulerError, match=r"sbatch refused .*[Ii]nvalid partition.*\(0 runs were submitted"):
            apply(plan, "slurm", profile_of(partition="none"))
        verdicts = read_states([plan.run(run_id) for run_id in plan.stages]).verdicts
        assert {verdict.state for verdict in verdicts.values()} == {"lost"}
        assert all("partition" in verdict.why for verdict in verdicts.values())
        apply(plan_study(*settings), "slurm", HELD)
        assert_each_queued_once(plan)
        sizes = Counter(record_of(plan, run_id).tag for run_id in plan.of_stage("train"))
        assert sorted(sizes.values()) == [1, 3, 3]
