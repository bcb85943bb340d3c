from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from hpcseg.sweeps.evidence import Evidence, Failure, Queue, QueueEntry, judge
from hpcseg.sweeps.records import ArrayRecord, Asked, Process, Submission
from hpcseg.sweeps.status import reconcile
from hpcseg.training.control import Heartbeat, process_start

NOW = 10_000.0
HOST = socket.gethostname()
MYSELF = Process(pid=os.getpid(), pid_start=process_start(os.getpid()) or 0.0)
DEAD = Process(pid=MYSELF.pid, pid_start=MYSELF.pid_start + 1)  # another process that once had this pid
LOCAL = Submission(backend="local", submitted=0.0, host=HOST, pool=MYSELF, attempt=2)
SLURM = Submission(backend="slurm", submitted=0.0, host=HOST, array="train-a", task=3, attempt=2)
ARRAY = ArrayRecord(
    tag="train-a",
    stage="train",
    runs=("r",),
    tasks=(3,),
    submitted=0.0,
    host=HOST,
    submitter=DEAD,
    asked=Asked(minutes=60, memory_mb=1000),
    job_id="7",
)
BEAT = Heartbeat(
    state="running",
    phase="training",
    step=3,
    steps=9,
    epoch=1,
    loss=0.5,
    eta_s=1.0,
    time=NOW - 60,
    host=HOST,
    pid=DEAD.pid,
    pid_start=DEAD.pid_start,
    attempt=2,
)
ALIVE = replace(BEAT, pid_start=MYSELF.pid_start)
FAILURE = Failure(time=1.0, cause="python", message="ValueError: no", traceback="")


def queue(**jobs: str) -> Queue:
    return Queue({name.removeprefix("j"): QueueEntry(state, "Priority") for name, state in jobs.items()})


EMPTY = Queue({})


@pytest.mark.parametrize(
    ("evidence", "answer", "state"),
    [
        ({"planned": False}, None, "new"),
        ({}, None, "new"),
        ({"done": True, "failure": FAILURE}, None, "done"),
        # on this host
        ({"submission": LOCAL}, None, "queued"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, attempt=1)}, None, "queued"),  # of an earlier submission
        ({"submission": LOCAL, "heartbeat": ALIVE}, None, "running"),
        ({"submission": LOCAL, "heartbeat": BEAT}, None, "lost"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, state="stopped")}, None, "stopped"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, state="failed"), "failure": FAILURE}, None, "failed"),
        ({"submission": LOCAL.model_copy(update={"pool": DEAD})}, None, "stopped"),
        ({"submission": LOCAL.model_copy(update={"cancelled": 1.0})}, None, "stopped"),
        ({"heartbeat": ALIVE}, None, "running"),  # hpcseg train
        ({"heartbeat": BEAT}, None, "lost"),
        # on another host
        ({"submission": LOCAL.model_copy(update={"host": "elsewhere"})}, None, "unknown"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, host="elsewhere")}, None, "running"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, host="elsewhere", time=0.0)}, None, "lost"),
        # on Slurm
        ({"submission": SLURM}, queue(j7_3="PENDING"), "queued"),
        ({"submission": SLURM}, queue(j7_3="RUNNING"), "running"),
        ({"submission": SLURM, "heartbeat": replace(BEAT, state="stopped")}, queue(j7_3="PENDING"), "queued"),
        ({"submission": SLURM}, queue(j7_4="RUNNING"), "lost"),
        ({"submission": SLURM, "heartbeat": BEAT}, EMPTY, "lost"),
        ({"submission": SLURM, "heartbeat": replace(BEAT, state="stopped")}, EMPTY, "stopped"),
        ({"submission": SLURM.model_copy(update={"cancelled": 1.0})}, EMPTY, "stopped"),
        ({"submission": SLURM, "array": ARRAY.model_copy(update={"job_id": None})}, EMPTY, "lost"),
        ({"submission": SLURM, "failure": FAILURE}, queue(j7_3="COMPLETING"), "failed"),
    ],
)
def test_the_state_follows_from_the_evidence(evidence: dict[str, Any], answer: Queue | None, state: str) -> None:
    verdict = judge(Evidence(**{"planned": True, "array": ARRAY, **evidence}), answer, NOW)
    assert verdict.state == state
    assert verdict.why and "\n" not in verdict.why


@pytest.mark.parametrize("heartbeat", [None, BEAT, replace(BEAT, state="stopped"), replace(BEAT, host="node1")])
def test_without_an_answer_of_squeue_no_job_is_dead(heartbeat: Heartbeat | None) -> None:
    evidence = Evidence(planned=True, submission=SLURM, array=ARRAY, heartbeat=heartbeat)
    assert judge(evidence, Queue({}, "Socket timed out"), NOW).state == "unknown"
    assert "Socket timed out" in judge(evidence, Queue({}, "Socket timed out"), NOW).why


def test_what_waits_for_a_failed_run_is_blocked_and_says_by_which() -> None:
    evidence = {
        "pack": Evidence(planned=True, submission=LOCAL, failure=FAILURE),
        "level0": Evidence(planned=True, submission=LOCAL),
        "train": Evidence(planned=True),
        "other": Evidence(planned=True),
        "ready": Evidence(planned=True, done=True),
    }
    needs = {"level0": ["pack"], "train": ["level0"], "ready": ["pack"]}
    verdicts = reconcile(evidence, needs, None, NOW)
    assert {name: verdict.state for name, verdict in verdicts.items()} == {
        "pack": "failed",
        "level0": "blocked",
        "train": "blocked",
        "other": "new",
        "ready": "done",
    }
    assert "ValueError: no" in verdicts["train"].why
