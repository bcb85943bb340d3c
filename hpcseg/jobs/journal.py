"""What a job notes about its attempt, and about those before it that could not do so themselves.

A job holds its run's lock meanwhile, so an attempt without an end is one whose process is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from hpcseg.paths import ATTEMPTS_FILE, array_folder
from hpcseg.runs.attempts import Attempt, Cause, read_attempts, write_attempt
from hpcseg.runs.ends import End, end_of
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import SlurmJob
from hpcseg.slurm.nodes import read_nodes, remember_bad
from hpcseg.training.control import Control

_TAIL_BYTES = 200_000  # of a log; what ended a job stands at its end


def open_attempt(run: RunDir, job: SlurmJob | None, control: Control, submission: Submission) -> Attempt:
    """Note that this process begins an attempt."""
    local_gpus = len([gpu for gpu in submission.gpus.split(",") if gpu]) if submission.backend == "local" else 0
    array = submission.array if job is not None else ""
    attempt = Attempt(
        number=control.attempt,
        job=f"{socket.gethostname()}:{os.getpid()}" if job is None else job.task,
        node=socket.gethostname() if job is None or not job.node else job.node,
        began=time.time(),
        restart=0 if job is None else job.restart,
        gpus=local_gpus if job is None else job.gpus,
        memory_mb=0 if job is None else job.memory_mb,
        progress_began=control.progress,
        array=array,
        logs={path.name: path.stat().st_size for path in logs_of(run.runs_root, array, job.task)} if job else {},
    )
    _record(run, attempt)
    return attempt


def close_attempt(run: RunDir, attempt: Attempt, control: Control, cause: Cause, detail: str) -> Attempt:
    """Note how this process' attempt ended."""
    now = time.time()
    kept_at = now if cause == "done" else control.progress_time or attempt.began
    return _close(run, attempt, End(cause, detail), now, kept_at, control.progress)


def close_former(run: RunDir, job: SlurmJob | None) -> list[Attempt]:
    """Note how attempts ended that left no end, and return them: their node failed, they were preempted or killed."""
    found = []
    for attempt in read_attempts(run.path):
        if attempt.cause is None:
            ended = closed_from_outside(run, attempt, _former_end(run, attempt, job), None)
            found.append(ended)
            if ended.cause == "node" and ended.node:
                remember_bad(run.runs_root, ended.node, ended.detail, ended.job, time.time())
    return found


def closed_from_outside(run: RunDir, attempt: Attempt, end: End, now: float | None) -> Attempt:
    """Note the end of an attempt whose process is gone; `now` is when, None: at its last sign of life."""
    heartbeat = run.heartbeat()
    own = heartbeat if heartbeat is not None and heartbeat.attempt == attempt.number else None
    ended_at = now if now is not None else own.time if own is not None else attempt.began
    kept_at = own.progress_time if own is not None and own.progress_time is not None else attempt.began
    return _close(run, attempt, end, ended_at, kept_at, attempt.progress_began if own is None else own.progress)


def note_superseded(run: RunDir, job: SlurmJob, why: str) -> None:
    """Note that a job did nothing, because another one has the run."""
    now = time.time()
    before = read_attempts(run.path)
    number = before[-1].number if before else 0
    _record(run, Attempt(number, job.task, job.node, now, job.restart, ended=now, cause="superseded", detail=why))


def logs_of(runs_root: Path, array: str, task: str) -> list[Path]:
    """Standard error of all tasks of a Slurm job of the array with that tag; none without one."""
    return sorted(array_folder(runs_root, array).glob(f"{task}_*_log.err")) if array else []


def log_since(runs_root: Path, attempt: Attempt) -> str:
    """What was written to standard error since the attempt began, by all its tasks; that of the first is the last."""
    texts = []
    for path in reversed(logs_of(runs_root, attempt.array, attempt.job)):
        with contextlib.suppress(OSError), path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(attempt.logs.get(path.name, 0), size - _TAIL_BYTES))
            texts.append(file.read().decode("utf-8", errors="replace"))
    return "\n".join(texts)


def _former_end(run: RunDir, attempt: Attempt, job: SlurmJob | None) -> End:
    logged = end_of(log_since(run.runs_root, attempt), attempt.node)
    if logged is not None and logged.cause != "python":
        return logged
    if job is None or job.task != attempt.job:
        return End("killed", f"{attempt.job} on {attempt.node} ended without a word")
    node = next((node for node in read_nodes(job.partition) if node.name == attempt.node), None)
    if node is not None and not node.works:
        return End("node", f"node {node.name} is {node.state}")
    return End("requeued", f"requeued from {attempt.node} without a word why")


def _close(run: RunDir, attempt: Attempt, end: End, ended: float, kept_at: float, progress: int) -> Attempt:
    """Note the end of an attempt whose work was kept last at `kept_at`."""
    lost_s = round(max(0.0, ended - kept_at), 3)
    closed = replace(attempt, cause=end.cause, detail=end.line, ended=ended, lost_s=lost_s, progress_ended=progress)
    _record(run, closed)
    return closed


def _record(run: RunDir, attempt: Attempt) -> None:
    try:
        write_attempt(run.path, attempt)
    except OSError as error:  # a full disk: no reason to end a healthy run
        print(f"{run.path / ATTEMPTS_FILE}: cannot be written ({error}): {attempt}", file=sys.stderr)
