"""What is known about a run, and what it proves: pure, so that every combination can be tested.

States: new (never submitted), queued, running, stopped (saved, and nobody works on it), done, failed, lost (its process
or job is gone without a word), blocked (something that it needs failed), unknown (the scheduler does not answer).
A query that fails yields unknown, never lost or failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hpcseg.sweeps.records import ArrayRecord, Submission
from hpcseg.training.control import Heartbeat

State = Literal["new", "queued", "running", "stopped", "done", "failed", "lost", "blocked", "unknown"]
SILENCE_S = (
    15 * 60
)  # a process on another host that is silent for longer is taken for dead; the run's lock is held if not
_ON_A_NODE = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING"}
TO_SUBMIT: frozenset[State] = frozenset({"new", "stopped", "failed", "lost", "blocked"})


@dataclass(frozen=True)
class Failure:
    """`error.json`: why the last attempt failed."""

    time: float
    cause: str
    message: str
    traceback: str


@dataclass(frozen=True)
class QueueEntry:
    """A job as Slurm's queue shows it."""

    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str = ""


@dataclass(frozen=True)
class Queue:
    """One answer of squeue; `error` says why there is none."""

    jobs: Mapping[str, QueueEntry]
    error: str = ""


@dataclass(frozen=True)
class Evidence:
    """What the files of one run directory say."""

    planned: bool = False
    done: bool = False
    submission: Submission | None = None
    heartbeat: Heartbeat | None = None
    failure: Failure | None = None
    array: ArrayRecord | None = None  # that the submission is a task of

    @property
    def job(self) -> str | None:
        """The job that was submitted last: Slurm's id (array_task), or a process of the host; None: not known."""
        if self.submission is None:
            return None
        if self.submission.backend != "slurm":
            return self.submission.job_id
        if self.array is None or self.array.job_id is None:
            return None
        return f"{self.array.job_id}_{self.submission.task}"


@dataclass(frozen=True)
class Verdict:
    """The state of a run, and the evidence for it in one line."""

    state: State
    why: str


def judge(evidence: Evidence, queue: Queue | None, now: float) -> Verdict:
    """State of a run at Unix time `now`, from its files, this host's processes and Slurm's queue (None: not asked)."""
    heartbeat = evidence.heartbeat
    if not evidence.planned:
        return Verdict("new", "not planned yet")
    if evidence.done:
        return Verdict("done", "its result is there")
    if heartbeat is not None and heartbeat.state == "running" and heartbeat.alive:
        return Verdict("running", f"process {heartbeat.pid} on {heartbeat.host} is alive")
    if evidence.failure is not None:
        return Verdict("failed", f"{evidence.failure.cause}: {evidence.failure.message}")
    return _unfinished(evidence, queue, now)


def _unfinished(evidence: Evidence, queue: Queue | None, now: float) -> Verdict:
    submission, heartbeat = evidence.submission, evidence.heartbeat
    if submission is None:
        return Verdict("new", "not submitted yet") if heartbeat is None else _left(heartbeat, now)
    # A heartbeat of an earlier submission says nothing about this one.
    current = heartbeat if heartbeat is not None and heartbeat.attempt >= submission.attempt else None
    if submission.backend == "slurm":
        return _on_slurm(submission, evidence.job, current, queue)
    return _waiting(submission) if current is None else _left(current, now)


def _left(heartbeat: Heartbeat, now: float) -> Verdict:
    """No process of this host works on the run: how did its last attempt end?"""
    who, where = f"process {heartbeat.pid} on {heartbeat.host}", _place(heartbeat)
    if heartbeat.state == "stopped":
        return Verdict("stopped", f"saved and stopped {where}")
    if heartbeat.alive is False:
        return Verdict("lost", f"{who} ended without a word {where}")
    silent_s = now - heartbeat.time
    if silent_s < SILENCE_S:
        return Verdict("running", f"{who} gave a sign of life {silent_s:.0f} s ago")
    return Verdict("lost", f"{who} gave no sign of life for {silent_s / 60:.0f} min {where}")


def _waiting(submission: Submission) -> Verdict:
    """Submitted on a host, and not begun."""
    if submission.cancelled is not None:
        return Verdict("stopped", "cancelled before it began")
    alive = submission.pool.alive(submission.host) if submission.pool is not None else False
    if alive is None:
        return Verdict("unknown", f"submitted on {submission.host}; if nobody works there, hpcseg retry frees it")
    if alive:
        return Verdict("queued", "waits for a slot")
    return Verdict("stopped", "the process that was to run it ended before it began")


def _on_slurm(submission: Submission, job_id: str | None, current: Heartbeat | None, queue: Queue | None) -> Verdict:
    job = f"Slurm job {job_id}"
    if job_id is None:
        return Verdict("lost", "its submission to Slurm was not completed")
    if queue is None or queue.error:
        return Verdict("unknown", f"{job}: {queue.error if queue else 'squeue was not asked'}")
    entry = queue.jobs.get(job_id)
    if entry is not None:
        reason = f" ({entry.reason})" if entry.reason not in {"", "None"} else ""
        return Verdict("running" if entry.state in _ON_A_NODE else "queued", f"{job} is {entry.state}{reason}")
    if submission.cancelled is not None:
        return Verdict("stopped", f"{job} was cancelled")
    if current is not None and current.state == "stopped":
        return Verdict("stopped", f"{job} saved and stopped {_place(current)}")
    return Verdict("lost", f"{job} left the queue " + (_place(current) if current is not None else "before it began"))


def _place(heartbeat: Heartbeat) -> str:
    return f"at {heartbeat.phase} {heartbeat.step}/{heartbeat.steps}" if heartbeat.steps else f"in {heartbeat.phase}"
