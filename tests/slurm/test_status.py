"""What status says of jobs in every state that a real Slurm can bring them into. The jobs are small shell scripts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hpcseg.paths import array_folder
from hpcseg.runs.attempts import Attempt, write_attempt
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import RunStatus, read_status
from hpcseg.runs.why import explain
from hpcseg.slurm.queue import read_queue
from hpcseg.submit.actions import cancel
from tests.arrays import write_new_array
from tests.slurm.cluster import Cluster
from tests.waiting import PATIENCE_S

BEATING = f"""\
exec {sys.executable} -c '
import sys, time
from pathlib import Path
from hpcseg.training.control import Control
from tests.arrays import write_new_array
control = Control(Path(sys.argv[1]), interval_s=0.0)
print("begins", flush=True)
for step in range(10000):
    control.beat(phase="training", step=step, steps=10000)
    time.sleep(0.1)
' $RUN
"""
Submit = Callable[..., list[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def submit(root: Path) -> Submit:
    """Submit an array that runs a shell script for each of some runs, as hpcseg would; returns Slurm's jobs."""

    def submit_runs(tag: str, runs: Sequence[str], script: str, *flags: str, known: bool = True) -> list[str]:
        tasks = tuple(range(0, 3 * len(runs), 3))  # squeue has its own ways with steps
        record = ArrayRecord(
            tag=tag,
            stage="train",
            runs=tuple(runs),
            tasks=tasks,
            submitted=time.time() - 100,
            host="elsewhere",
            submitter=Process(pid=1, pid_start=1.0),
            asked=Asked(minutes=60, memory_mb=100),
        )
        write_new_array(root, record)
        folder = array_folder(root, tag)
        for name, task in zip(runs, tasks, strict=True):
            run = RunDir.of(root, "train", name)
            run.path.mkdir(parents=True)
            (run.path / "run.json").write_text("{}")
            run.write_submission(Submission(backend="slurm", submitted=time.time() - 100, array=tag, task=task))
            (folder / f"run{task}").symlink_to(run.path)
        log = folder / "%A_%a_0_log"
        command = ["sbatch", "--parsable", f"--job-name={record.job_name}", f"--array={','.join(map(str, tasks))}"]
        command += [f"--output={log}.out", f"--error={log}.err", "--mem=100", "--open-mode=append", *flags]
        text = f"#!/bin/bash\nRUN=$(readlink {folder}/run$SLURM_ARRAY_TASK_ID)\n{script}\n"
        answer = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        job_id = answer.stdout.strip()
        if known:
            write_new_array(root, record.model_copy(update={"job_id": job_id}))
        _record(root)
        return [f"{job_id}_{task}" for task in tasks]

    return submit_runs


def _record(root: Path) -> None:
    runs = sorted(path.name for path in (root / "train").iterdir())
    folder = root / "sweeps" / "study"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"name": "study", "file": "/x/study.toml", "stages": {"pack": [], "pretrain": [], "train": runs}}
    (folder / "sweep.json").write_text(json.dumps({**record, "needs": {}}))


def lines(root: Path) -> dict[str, RunStatus]:
    return {line.id: line for line in read_status(root)}


def test_every_state_of_a_job_is_told_and_a_failing_squeue_kills_none(
    slurm: Cluster, root: Path, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = submit("train-held", ["held0", "held1", "held2"], "true", "--hold")
    beating, again = submit("train-beat", ["beating", "again"], BEATING)
    submit("train-ghost", ["ghost"], "sleep 600", known=False)
    (broken,) = submit("train-broken", ["broken"], "echo 'apptainer: command not found' >&2; exit 127")
    queue = read_queue()
    assert set(held) <= set(queue.jobs) and list(queue.named("hpcseg-train-held")) == [0, 3, 6]

    started = RunDir.of(root, "train", "again")
    slurm.wait(lambda: (beat := started.heartbeat()) is not None and beat.step > 1)
    first = Attempt(number=1, job=again, node="n1", began=time.time() - 60, gpus=1)
    write_attempt(started.path, first)
    subprocess.run(["scontrol", "requeue", again], check=True)
    write_attempt(started.path, replace(first, ended=time.time(), cause="preempted", detail="saved"))
    slurm.wait(lambda: read_queue().jobs[again].state == "PENDING")
    slurm.wait(lambda: broken not in read_queue().jobs)
    slurm.wait(lambda: (beat := RunDir.of(root, "train", "beating").heartbeat()) is not None and beat.step > 1)

    found = lines(root)
    assert [(found[f"held{n}"].state, found[f"held{n}"].why) for n in range(3)] == [
        ("held", f"Slurm job {job} is PENDING (JobHeldUser) until it is released: scontrol release {job}")
        for job in held
    ]
    assert (
        found["beating"].state == "running"
        and found["beating"].job == beating
        and found["beating"].node
        in {
            "n1",
            "n2",
            "n3",
        }
    )
    assert (found["again"].state, found["again"].cause, found["again"].attempts) == ("requeued", "preempted", 1)
    assert "preempted 1 of 1000 on n1: saved" in found["again"].why and found["again"].gpu_hours > 0
    assert found["ghost"].state == "running" and found["ghost"].job  # its id was never heard
    assert found["broken"].state == "lost"  # and there is no accounting to ask
    assert found["broken"].why.endswith("its output ends with: apptainer: command not found")

    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Socket timed out' >&2\nexit 1\n")
    (tools / "squeue").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tools), prepend=":")
        states = {name: line.state for name, line in lines(root).items()}
        assert states.pop("beating") == "running"  # its process is on this host
        assert set(states.values()) == {"unknown"}

    process = (RunDir.of(root, "train", "beating").heartbeat() or pytest.fail("no heartbeat")).pid
    os.kill(process, signal.SIGSTOP)
    monkeypatch.setattr("hpcseg.runs.judge.STALLED_S", 1)
    slurm.wait(lambda: lines(root)["beating"].state == "stalled")
    assert "silent" in lines(root)["beating"].why
    os.kill(process, signal.SIGCONT)
    slurm.wait(lambda: lines(root)["beating"].state == "running")
    monkeypatch.undo()

    # held0 alone, and then whatever is left, the job that nobody heard of included
    assert cancel(root, "held0") == ["held0"]
    slurm.wait(lambda: held[0] not in read_queue().jobs)
    assert set(held[1:]) <= set(read_queue().jobs) and lines(root)["held0"].state == "stopped"
    assert set(cancel(root, "study")) == {"held1", "held2", "beating", "again", "ghost"}
    slurm.wait(lambda: not read_queue().jobs)
    assert {line.state for line in lines(root).values()} == {"stopped", "lost"}


def test_accounting_tells_how_jobs_ended_that_left_no_word(accounted: Cluster, root: Path, submit: Submit) -> None:
    submit("train-a", ["a-fails"], "exit 3")
    (dies,) = submit("train-dies", ["dies"], "sleep 600", "--nodelist=n3", "--no-requeue")
    (gone,) = submit("train-gone", ["gone"], "sleep 600", "--nodelist=n2")
    accounted.wait(lambda: {"RUNNING"} == {read_queue().jobs[job].state for job in (dies, gone)})
    assert lines(root)["dies"].node == "n3"
    subprocess.run(["scancel", gone], check=True)
    accounted.node_down("n3")
    accounted.wait(lambda: not read_queue().jobs)
    told = ("FAILED", "NODE_FAIL", "cancelled")  # slurmdbd hears of it a moment later
    accounted.wait(lambda: all(word in line.why for word, line in zip(told, lines(root).values(), strict=True)))
    found = lines(root)
    assert (found["a-fails"].state, found["dies"].state, found["gone"].state) == ("lost", "lost", "stopped")
    assert "FAILED with exit code 3" in found["a-fails"].why
    assert (found["dies"].cause, found["dies"].node) == ("node", "n3") and "NODE_FAIL on n3" in found["dies"].why
    assert found["gone"].cause == "cancelled"
    report = explain(root, "dies")
    assert report["accounting"]["cause"] == "node" and report["queue"]["state"] == "not in the queue"
    assert report["next"] == "hpcseg sweep /x/study.toml submits it again"


def test_watching_and_following_outlive_a_squeue_that_fails_and_end_with_the_run(
    slurm: Cluster, root: Path, submit: Submit, tmp_path: Path
) -> None:
    tools, silent = tmp_path / "tools", tmp_path / "silent"
    tools.mkdir()
    real = subprocess.run(["which", "squeue"], capture_output=True, text=True, check=True).stdout.strip()
    (tools / "squeue").write_text(f'#!/bin/sh\n[ -e {silent} ] && exit 1\nexec {real} "$@"\n')
    (tools / "squeue").chmod(0o755)
    result = shlex.quote(json.dumps({"id": "r", "sets": {}}))
    script = f"echo begins; until [ -e $RUN/go ]; do sleep 0.1; done; echo {result} > $RUN/result.json"
    (job,) = submit("train-a", ["r"], script)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "hpcseg"]
    slurm.wait(lambda: read_queue().jobs[job].state == "RUNNING")

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments, "--runs", str(root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    watch, follow, interrupted = start("status", "--watch"), start("logs", "r", "-f"), start("logs", "r", "-f")
    assert interrupted.stdout is not None and interrupted.stdout.readline() == "begins\n"
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=PATIENCE_S)
    assert interrupted.returncode == 130 and "Traceback" not in err
    assert watch.stdout is not None and "1 running" in watch.stdout.readline()
    silent.touch()
    assert "running → unknown" in watch.stdout.readline()
    assert "1 unknown" in watch.stdout.readline()
    silent.unlink()
    assert "unknown → running" in watch.stdout.readline()
    (root / "train" / "r" / "go").touch()
    out, err = watch.communicate(timeout=PATIENCE_S)
    assert "running → done" in out and watch.returncode == 0, err
    out, err = follow.communicate(timeout=PATIENCE_S)
    assert out == "begins\n" and "r is done" in err and follow.returncode == 0
