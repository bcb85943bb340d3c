"""Stopping runs, and freeing failed ones."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import OPEN
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.selection import select_runs
from hpcseg.runs.states import read_states
from hpcseg.slurm.commands import cancel_jobs


def cancel(runs_root: Path, pattern: str) -> list[str]:
    """Ask the matching runs that may still go on to save and stop; returns their ids.

    A run that waits is not begun any more, not even by a job that shows up in the queue later. The same sweep can be
    applied again at any time.

    Raises:
        BadInput: no run matches, or a process is on another host.
        SchedulerError: scancel failed.
    """
    runs = select_runs(runs_root, pattern)
    evidence, verdicts, _ = read_states(runs)
    cancelled: list[str] = []
    jobs: list[str] = []
    for run in runs:
        submission, heartbeat = evidence[run.id].submission, evidence[run.id].heartbeat
        job = verdicts[run.id].job
        waits_in_vain = verdicts[run.id].state == "blocked" and job != ""
        if submission is None or not (verdicts[run.id].state in OPEN or waits_in_vain):
            continue
        run.write_submission(submission.model_copy(update={"cancelled": time.time()}))
        cancelled.append(run.id)
        if submission.backend == "slurm" and job:
            jobs.append(job)
            continue
        # The job may have begun since: it writes its heartbeat before it looks whether it was cancelled.
        heartbeat = run.heartbeat() or heartbeat
        if (
            heartbeat is not None
            and heartbeat.state == "running"
            and (submission.backend != "slurm" or heartbeat.alive)
        ):
            _terminate(run, heartbeat)
    cancel_jobs(jobs)
    return cancelled


def retry(runs_root: Path, pattern: str, cause: str = "") -> list[str]:
    """Make the matching failed runs count as stopped, with whole budgets; returns their ids.

    Nothing is removed: `error.json` becomes `error.N.json`. Applying their sweep submits them. A run of which only
    another host knows is freed as well. `cause` leaves the runs that ended by it (memory, python, node, ...).

    Raises:
        BadInput: no run matches.
    """
    runs = select_runs(runs_root, pattern)
    evidence, verdicts, _ = read_states(runs, ends=Ends() if cause else None, attempts=bool(cause))
    freed = []
    for run in runs:
        verdict, submission = verdicts[run.id], evidence[run.id].submission
        if cause and verdict.cause != cause:
            continue
        if verdict.state == "failed" and run.clear_failure():
            freed.append(run.id)
        elif verdict.state == "unknown" and submission is not None and submission.backend == "local":
            run.write_submission(submission.model_copy(update={"cancelled": time.time()}))
            freed.append(run.id)
        elif verdict.state == "lost":  # is free already
            freed.append(run.id)
    return freed


def _terminate(run: RunDir, heartbeat: Heartbeat) -> None:
    if heartbeat.host != socket.gethostname():
        raise BadInput(f"{run.id} runs on {heartbeat.host}; cancel it there")
    if heartbeat.alive:
        os.kill(heartbeat.pid, signal.SIGTERM)
