"""Stopping runs, and freeing failed ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hpcseg.errors import BadInput, SchedulerError
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import OPEN
from hpcseg.runs.queue import expression_of
from hpcseg.runs.rundir import RunDir
from hpcseg.sweeps.status import look, select_runs
from hpcseg.training.control import Heartbeat

SCANCEL_TIMEOUT_S = 120
JOBS_PER_CALL = 1000  # some 10 bytes each; a command line takes much more
_OVER = ("already completing or completed", "Invalid job id specified")


def cancel(runs_root: Path, pattern: str) -> list[str]:
    """Ask the matching runs that may still go on to save and stop; returns their ids.

    A run that waits is not begun any more, not even by a job that shows up in the queue later. The same sweep can be
    applied again at any time.

    Raises:
        BadInput: no run matches, or a process is on another host.
        SchedulerError: scancel failed.
    """
    runs = select_runs(runs_root, pattern)
    evidence, verdicts, _ = look(runs, {})
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


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Cancel Slurm jobs, in few calls; those that are over already are no error.

    Raises:
        SchedulerError: scancel failed, or did not answer.
    """
    for chunk in _chunks(compact(jobs)):
        try:
            answer = subprocess.run(
                ["scancel", *chunk], capture_output=True, text=True, check=False, timeout=SCANCEL_TIMEOUT_S
            )
        except OSError as error:
            raise SchedulerError(f"scancel cannot be run ({error.strerror}); {_remedy(chunk)}") from None
        except subprocess.TimeoutExpired:
            raise SchedulerError(f"scancel did not answer in {SCANCEL_TIMEOUT_S} s; {_remedy(chunk)}") from None
        lines = [line for line in answer.stderr.splitlines() if line and not any(words in line for words in _OVER)]
        if answer.returncode and lines:
            raise SchedulerError(f"scancel failed: {lines[-1]}; {_remedy(chunk)}")


def compact(jobs: Iterable[str]) -> list[str]:
    """The same jobs with tasks of one array in one: 7_1, 7_2, 7_3, 7_5 are 7_[1-3,5]. Pure."""
    tasks: dict[str, set[int]] = {}
    single: dict[str, None] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        if task.isdigit():
            tasks.setdefault(array, set()).add(int(task))
        else:
            single[job] = None
    return [*single, *(f"{array}_[{expression_of(those)}]" for array, those in tasks.items())]


def retry(runs_root: Path, pattern: str, cause: str = "") -> list[str]:
    """Make the matching failed runs count as stopped, with whole budgets; returns their ids.

    Nothing is removed: `error.json` becomes `error.N.json`. Applying their sweep submits them. A run of which only
    another host knows is freed as well. `cause` leaves the runs that ended by it (memory, python, node, ...).

    Raises:
        BadInput: no run matches.
    """
    runs = select_runs(runs_root, pattern)
    evidence, verdicts, _ = look(runs, {}, Ends() if cause else None, attempts=bool(cause))
    freed = []
    for run in runs:
        verdict, submission = verdicts[run.id], evidence[run.id].submission
        if cause and verdict.cause != cause:
            continue
        if verdict.state == "failed" and run.forgive():
            freed.append(run.id)
        elif verdict.state == "unknown" and submission is not None and submission.backend == "local":
            run.write_submission(submission.model_copy(update={"cancelled": time.time()}))
            freed.append(run.id)
        elif verdict.state == "lost":  # is free already
            freed.append(run.id)
    return freed


def _chunks(jobs: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(jobs), JOBS_PER_CALL):
        yield list(jobs[start : start + JOBS_PER_CALL])


def _remedy(jobs: Sequence[str]) -> str:
    few = " ".join(jobs[:3]) + (" …" if len(jobs) > 3 else "")
    return f"the jobs {few} may still run: cancel again"


def _terminate(run: RunDir, heartbeat: Heartbeat) -> None:
    if heartbeat.host != socket.gethostname():
        raise BadInput(f"{run.id} runs on {heartbeat.host}; cancel it there")
    if heartbeat.alive:
        os.kill(heartbeat.pid, signal.SIGTERM)
