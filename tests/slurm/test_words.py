"""What is concluded from jobs that are held, that are others', or that belong to a folder with another name, and from
answers that are none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import SchedulerError
from hpcseg.runs.records import read_array, write_array
from hpcseg.runs.states import read_states
from hpcseg.runs.status import read_status
from hpcseg.slurm.job import ask_about
from hpcseg.slurm.queue import read_queue
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.actions import cancel
from hpcseg.submit.apply import apply
from hpcseg.submit.outlook import look_ahead
from tests.slurm.cluster import Cluster
from tests.slurm.profiles import profile_of

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
LATER = profile_of(flags={"begin": "now+1hour"})
HELD = profile_of(flags={"hold": True})
Planner = Callable[..., Plan]
Answer = subprocess.CompletedProcess[str]


@pytest.fixture
def plan(tmp_path: Path, tiny_dataset: Path) -> Planner:
    """A pack and what trains on it; `name` is the sweep's."""

    def plan_study(*overrides: str, name: str = "study", runs: str = "runs") -> Plan:
        path = tmp_path / f"{name}.toml"
        path.write_text(STUDY)
        return make_plan(read_sweep(path, overrides), tiny_dataset.parent, tmp_path / runs)

    return plan_study


@pytest.fixture
def hpcseg(tmp_path: Path, tiny_dataset: Path) -> Callable[..., Answer]:
    """Call `hpcseg sweep` with this test's study."""

    def call(*words: str, path: str = "") -> Answer:
        profile = tmp_path / "later.toml"
        stage = 'cpus = 1\nmemory = "900M"\ngpus = 0\n'
        profile.write_text(f'[slurm.flags]\nbegin = "now+1hour"\n[slurm.pack]\n{stage}[slurm.train]\n{stage}')
        command = [sys.executable, "-m", "hpcseg", "sweep", str(tmp_path / "study.toml"), "--on", "slurm", *words]
        command += ["--jobs", str(profile), "--data", str(tiny_dataset.parent), "--runs", str(tmp_path / "runs")]
        environment = os.environ | {"PATH": path + os.environ["PATH"]}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return call


def states(plan: Plan) -> dict[str, str]:
    """State of each stage."""
    return {line.stage: line.state for line in read_status(plan.runs_root)}


def tool(folder: Path, **scripts: str) -> str:
    """Scripts before Slurm's commands, for PATH."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\nREAL=$(PATH=${{PATH#*:}} which {name})\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:"


def test_held_jobs_are_a_state_of_their_own_and_the_sweep_says_how_to_release_them(
    slurm: Cluster, plan: Planner, hpcseg: Callable[..., Answer]
) -> None:
    made = plan()
    apply(made, "slurm", HELD)
    assert set(states(made).values()) == {"held"}
    pack, train = (read_states([made.run(i) for i in made.stages]).verdicts[i] for i in made.stages)
    assert pack.why.endswith(f"until it is released: scontrol release {pack.job}")
    said = hpcseg("--yes")
    assert said.returncode == 0 and "nothing to submit; of 2 stages 2 held" in said.stdout, said
    assert f"2 jobs held in the queue until released: scontrol release {pack.job},{train.job}" in said.stderr
    assert "waiting jobs asked for what the profile said before (slurm." in said.stderr and "→" in said.stderr
    slurm.call("scontrol", "release", train.job)
    assert states(made)["train"] == "queued"


def test_requeued_into_a_hold_and_marked_as_a_special_exit_are_held_too(slurm: Cluster, plan: Planner) -> None:
    made = plan("training.epochs=100000")
    apply(made, "slurm", profile_of())
    train = made.run(list(made.stages)[1])
    slurm.wait(lambda: (beat := train.heartbeat()) is not None and beat.phase == "training")
    job = read_states([train]).verdicts[train.id].job
    slurm.call("scontrol", "requeuehold", "State=SpecialExit", job)
    slurm.wait(lambda: job in read_queue().jobs and read_queue().jobs[job].held)
    line = next(line for line in read_status(made.runs_root) if line.id == train.id)
    assert line.state == "held" and f"scontrol release {job}" in line.why


def test_a_job_of_the_same_id_is_neither_believed_nor_cancelled(slurm: Cluster, plan: Planner) -> None:
    made = plan()
    apply(made, "slurm", LATER)
    pack = made.run(next(iter(made.stages)))
    array = pack.evidence().array
    assert array is not None
    slurm.call("scancel", "--me")
    foreign = slurm.call(
        "sbatch", "--parsable", "--array=0-1", "--job-name=mine", "--output=/dev/null", "--wrap=sleep 600"
    ).strip()
    write_array(
        made.runs_root, array.model_copy(update={"job_id": foreign})
    )  # as after a controller that forgot its ids
    assert states(made)["pack"] == "lost"
    assert cancel(made.runs_root, pack.id) == []
    outcome = apply(plan(), "slurm", LATER)
    assert len(outcome.submitted) == 2 and f"{foreign}_0" in read_queue().jobs


def test_a_job_of_another_cluster_and_a_job_of_another_user_that_is_hidden_are_unknown(
    slurm: Cluster, plan: Planner
) -> None:
    made = plan()
    apply(made, "slurm", LATER)
    pack, train = (made.run(run_id) for run_id in made.stages)
    arrays = {run.id: run.evidence().array for run in (pack, train)}
    slurm.call("scancel", "--me")
    for run, other in ((pack, {"cluster": "another"}), (train, {"uid": 4242})):
        array = arrays[run.id]
        assert array is not None
        write_array(made.runs_root, array.model_copy(update=other))
    found = states(made)
    assert found == {"pack": "unknown", "train": "blocked"} or found["train"] == "lost"  # jobs of others are shown here
    assert "cluster another, and this one is hpcseg" in read_status(made.runs_root)[0].why


def test_what_the_plan_shows_is_what_is_sent_also_of_jobs_that_are_replaced(
    slurm: Cluster, plan: Planner, hpcseg: Callable[..., Answer]
) -> None:
    made = plan("fold=[0, 1]", "seed=[0, 1]")
    apply(made, "slurm", profile_of(flags={"begin": "now+1hour", "kill-on-invalid-dep": "no"}))
    pack = next(iter(made.stages))
    slurm.call("scancel", read_states([made.run(pack)]).verdicts[pack].job)
    slurm.wait(lambda: len(read_queue().jobs) == 4)
    again = plan("fold=[0, 1]", "seed=[0, 1]")
    ahead = look_ahead(again, "slurm", LATER)
    shown = json.loads(hpcseg("--plan", "--json", "--set", "fold=[0, 1]", "--set", "seed=[0, 1]").stdout)
    outcome = apply(again, "slurm", LATER)
    assert outcome.submitted == ahead.taken and len(ahead.taken) == shown["to_submit"] == 5
    assert sum(len(array.runs) for array in ahead.arrays) == 5


def test_a_sweep_says_what_it_does_not_know_and_a_controller_that_is_gone_changes_no_record(
    slurm: Cluster, plan: Planner, hpcseg: Callable[..., Answer], tmp_path: Path
) -> None:
    made = plan()
    apply(made, "slurm", LATER)
    record = tmp_path / "runs" / "sweeps" / "study" / "sweep.json"
    for script, words in (("exit 1", "squeue failed with exit code 1"), ("exit 0", "squeue said nothing")):
        said = hpcseg("--yes", path=tool(tmp_path / "tools", squeue=script))
        assert said.returncode == 1 and words in said.stderr and "of 2 stages 2 unknown" in said.stdout, said
    before = record.read_text()
    failing = tool(tmp_path / "down", **dict.fromkeys(("scontrol", "squeue", "sbatch"), "exit 1"))
    said = hpcseg("--yes", "--set", "fold=[0, 1]", path=failing)
    assert said.returncode == 1 and "is Slurm up?" in said.stderr and record.read_text() == before
    (tmp_path / "down" / "scontrol").unlink()
    chatty = tool(
        tmp_path / "chatty", sbatch='echo "Welcome to 2026"; echo; $REAL "$@"', squeue='echo Hello; $REAL "$@"'
    )
    assert hpcseg("--yes", path=chatty).returncode == 0
    said = hpcseg("--yes", "--json", "--set", "seed=3", path=chatty)
    assert said.returncode == 0 and len(json.loads(said.stdout)["submitted"]) == 1, said
    assert len(read_queue().jobs) == 3


def test_jobs_of_a_folder_that_was_renamed_are_replaced_and_those_of_a_copied_one_left_alone(
    slurm: Cluster, plan: Planner, tmp_path: Path
) -> None:
    made = plan()
    apply(made, "slurm", LATER)
    ours = set(read_queue().jobs)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    assert set(states(plan(runs="copy")).values()) == {"stopped"}
    assert cancel(tmp_path / "copy", "study") == [] and set(read_queue().jobs) == ours
    shutil.rmtree(tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert set(states(plan(runs="link")).values()) == {"queued"}
    (tmp_path / "runs").rename(tmp_path / "new")
    assert states(plan(runs="new")) == {"pack": "lost", "train": "blocked"}
    assert len(apply(plan(runs="new"), "slurm", LATER).submitted) == 2
    slurm.wait(lambda: len(read_queue().jobs) == 2)
    assert not ours & set(read_queue().jobs) and set(states(plan(runs="new")).values()) == {"queued"}


def test_a_job_whose_folder_was_renamed_under_it_makes_no_second_one(
    slurm: Cluster, plan: Planner, tmp_path: Path
) -> None:
    made = plan("training.epochs=100000")
    apply(made, "slurm", profile_of())
    train = made.run(list(made.stages)[1])
    slurm.wait(lambda: (beat := train.heartbeat()) is not None and beat.phase == "training")
    (tmp_path / "runs").rename(tmp_path / "new")
    slurm.wait(lambda: not read_queue().jobs)
    assert not (tmp_path / "runs").exists()
    assert read_array(tmp_path / "new", next((tmp_path / "new" / "slurm").glob("train-*")).name) is not None


def test_a_sweep_that_is_cancelled_leaves_what_another_one_needs(slurm: Cluster, plan: Planner) -> None:
    first, second = plan("seed=[0, 1]", name="a"), plan("seed=[1, 2]", name="b")
    apply(first, "slurm", LATER)
    apply(second, "slurm", LATER)
    notes: list[str] = []
    (mine,) = set(first.stages) - set(second.stages)
    assert cancel(first.runs_root, "a", notes.append) == [mine]
    slurm.wait(lambda: len(read_queue().jobs) == 3)
    assert len(notes) == 1 and notes[0].startswith("left, and part of b: ")
    assert set(cancel(first.runs_root, "b", notes.append)) == set(second.stages) and len(notes) == 1


def test_a_limit_that_the_administrator_raised_is_seen(slurm: Cluster) -> None:
    job = slurm.call("sbatch", "--parsable", "--time=5", "--output=/dev/null", "--wrap=sleep 600").strip()
    slurm.wait(lambda: (facts := ask_about(job)) is not None and facts.state == "RUNNING")
    before, _ = ask_about(job), slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=65")
    after = ask_about(job)
    assert before is not None and after is not None and before.end is not None and after.end is not None
    assert after.end - before.end == pytest.approx(3600, abs=5)


def test_a_scancel_that_says_nothing_and_does_nothing_is_not_believed(
    slurm: Cluster, plan: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    apply(made, "slurm", LATER)
    monkeypatch.setattr("hpcseg.submit.actions.CANCEL_WAIT_S", 0.5)
    monkeypatch.setenv("PATH", tool(tmp_path / "tools", scancel="echo 'really? [y/n]'") + os.environ["PATH"])
    with pytest.raises(SchedulerError, match=r"2 jobs of 2 are in the queue as before"):
        cancel(made.runs_root, "study")
