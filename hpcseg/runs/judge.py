"""What the evidence about a run proves: pure, so that every combination can be tested.

A query that fails proves nothing: it yields unknown, never lost, stopped or failed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.evidence import Evidence, Failure, Verdict
from hpcseg.runs.records import JOB_NAME, Submission
from hpcseg.slurm.accounting import Fate
from hpcseg.slurm.queue import Queue, QueueEntry

STALLED_S = 10 * 60  # whoever is silent for longer deserves a look
SILENCE_S = 15 * 60  # a process on another host that is silent for longer counts as dead; if not, it holds the lock
CONFIRMED_S = 60  # a job that sbatch made though it failed is in the queue by then
SUBMITTING_S = 15 * 60  # nobody is busy with one sbatch for longer
_WAITS = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REVOKED"}
_NEVER = "DependencyNeverSatisfied"


def judge(evidence: Evidence, queue: Queue | None, now: float, fate: Fate | None = None) -> Verdict:
    """State of a run at Unix time `now`, from its files, this host's processes, Slurm's queue (None: not asked) and,
    for a job that left the queue, what is known of its end."""
    if not evidence.planned:
        return Verdict("new", "not planned yet")
    if evidence.done:
        return Verdict("done", "its result is there")
    if evidence.damage:
        return Verdict("unknown", evidence.damage)
    job, entry = _in_queue(evidence, queue)
    verdict = _unfinished(evidence, queue, now, fate, job, entry)
    if job is None:
        return verdict
    if entry is None:
        return replace(verdict, job=job)
    return replace(verdict, job=job, node=entry.node, ending=entry.state == "COMPLETING")


def _in_queue(evidence: Evidence, queue: Queue | None) -> tuple[str | None, QueueEntry | None]:
    """The run's Slurm job and what the queue shows of it; a job whose id was never heard is found by its name."""
    submission = evidence.submission
    if submission is None or submission.backend != "slurm":
        return None, None
    job = evidence.job
    if queue is None or queue.error:
        return job, None
    if job is None and submission.array:
        job = queue.named(JOB_NAME + submission.array).get(submission.task)
    return job, None if job is None else queue.jobs.get(job)


def _unfinished(
    evidence: Evidence,
    queue: Queue | None,
    now: float,
    fate: Fate | None,
    job: str | None,
    entry: QueueEntry | None,
) -> Verdict:
    heartbeat, submission, answered = evidence.heartbeat, evidence.submission, queue is not None and not queue.error
    if heartbeat is not None and heartbeat.state == "running" and heartbeat.alive:
        return _heard(heartbeat, f"process {heartbeat.pid} on {heartbeat.host} is alive", now - heartbeat.time)
    if evidence.failure is not None:
        return _failed(evidence.failure, job, entry)
    if submission is None or submission.backend != "slurm":
        return _on_a_host(evidence, now)
    if job is None and _being_submitted(evidence, submission, now):
        return Verdict("queued", "is being submitted")
    if job is not None and entry is not None:
        return _in_line(evidence, job, entry) if entry.state in _WAITS else _on_a_node(evidence, job, entry, now)
    return _gone(evidence, submission, job, now, fate) if answered else _unanswered(submission, job, queue)


def _failed(failure: Failure, job: str | None, entry: QueueEntry | None) -> Verdict:
    words = f"{failure.cause}: {failure.message}"
    if job is not None and entry is not None and entry.state in _WAITS:
        return Verdict("requeued", f"{_shown(job, entry)} again after {words}", cause=failure.cause)
    return Verdict("failed", words, cause=failure.cause)


def _on_a_host(evidence: Evidence, now: float) -> Verdict:
    """Not on Slurm, and no process of this host works on it."""
    submission, current = evidence.submission, evidence.current
    if current is not None:
        return _left(current, now)
    return Verdict("new", "not submitted yet") if submission is None else _not_begun(submission)


def _heard(heartbeat: Heartbeat, who: str, silent_s: float) -> Verdict:
    """A process or job that is there: does it say anything?"""
    if silent_s > STALLED_S:
        return Verdict("stalled", f"{who}, but silent for {silent_s / 60:.0f} min {_place(heartbeat)}")
    return Verdict("running", who)


def _left(heartbeat: Heartbeat, now: float) -> Verdict:
    """No process of this host works on the run: how did its last attempt end?"""
    who, where = f"process {heartbeat.pid} on {heartbeat.host}", _place(heartbeat)
    if heartbeat.state == "stopped":
        return Verdict("stopped", f"saved and stopped {where}")
    if heartbeat.alive is False:
        return Verdict("lost", f"{who} ended without a word {where}")
    silent_s = now - heartbeat.time
    if silent_s >= SILENCE_S:
        return Verdict("lost", f"{who} gave no sign of life for {silent_s / 60:.0f} min {where}")
    if silent_s > STALLED_S:
        return Verdict("stalled", f"{who} gave no sign of life for {silent_s / 60:.0f} min {where}")
    return Verdict("running", f"{who} gave a sign of life {silent_s:.0f} s ago")


def _not_begun(submission: Submission) -> Verdict:
    """Submitted on a host, and not begun."""
    if submission.cancelled is not None:
        return Verdict("stopped", "cancelled before it began")
    alive = submission.pool.alive(submission.host) if submission.pool is not None else False
    if alive is None:
        return Verdict("unknown", f"submitted on {submission.host}; if nobody works there, hpcseg retry frees it")
    if alive:
        return Verdict("queued", "waits for a slot")
    return Verdict("stopped", "the process that was to run it ended before it began")


def _in_line(evidence: Evidence, job: str, entry: QueueEntry) -> Verdict:
    """Its job is in the queue, for the first time or again."""
    shown = _shown(job, entry)
    if entry.reason == _NEVER:
        return Verdict("blocked", f"{shown}: a job that it waits for failed")
    if entry.restarts or evidence.current is not None:
        cause, words = _interruption(evidence)
        return Verdict("requeued", f"{shown} again" + (f" after {words}" if words else ""), cause=cause)
    return Verdict("queued", shown)


def _on_a_node(evidence: Evidence, job: str, entry: QueueEntry, now: float) -> Verdict:
    """Its job is on a node."""
    shown, heartbeat = _shown(job, entry), evidence.current
    if entry.state in {"SUSPENDED", "STOPPED"}:
        return Verdict("stalled", shown)
    if entry.state != "RUNNING":
        return Verdict("running", shown)
    # A heartbeat from before the job's last start says nothing about how it is now.
    heard = max(heartbeat.time if heartbeat is not None else 0.0, entry.began)
    where = f" on {entry.node}" if entry.node else ""
    if heard and now - heard > STALLED_S:
        silent = f"silent for {(now - heard) / 60:.0f} min"
        at = _place(heartbeat) if heartbeat is not None and heard == heartbeat.time else "since it began"
        return Verdict("stalled", f"{shown}{where}, but {silent} {at}")
    return Verdict("running", shown + where)


def _unanswered(submission: Submission, job: str | None, queue: Queue | None) -> Verdict:
    name = f"Slurm job {job}" if job else f"Slurm job {JOB_NAME}{submission.array}, not confirmed"
    return Verdict("unknown", f"{name}: {queue.error if queue else 'squeue was not asked'}")


def _being_submitted(evidence: Evidence, submission: Submission, now: float) -> bool:
    """Whether another process of this host is about to call sbatch for the run, or has just done so.

    This process is not: it is here, asking.
    """
    if evidence.array is not None and evidence.array.refused:
        return False
    submitter = evidence.array.submitter if evidence.array is not None else submission.pool
    if submitter is None or submitter.pid == os.getpid() or now - submission.submitted > SUBMITTING_S:
        return False
    return submitter.alive(submission.host) is True


def _gone(evidence: Evidence, submission: Submission, job: str | None, now: float, fate: Fate | None) -> Verdict:
    """Slurm's queue answered, and does not have the job."""
    current = evidence.current
    name = f"Slurm job {job}" if job else "its Slurm job"
    where = _place(current) if current is not None else "before it began"
    if submission.cancelled is not None:
        return Verdict("stopped", f"{name} was cancelled {where}", cause="cancelled")
    if current is not None and current.state == "stopped":
        return Verdict("stopped", f"{name} saved and stopped {where}")
    if job is None and current is None:
        return _never_seen(evidence, submission, now)
    cause, words = _interruption(evidence)
    node = ""
    if not cause and fate is not None:
        cause, words, node = fate
    if cause == "cancelled":
        return Verdict("stopped", f"{name} was cancelled {where}", cause=cause, node=node)
    return Verdict("lost", f"{name} left the queue {where}" + (f": {words}" if words else ""), cause=cause, node=node)


def _never_seen(evidence: Evidence, submission: Submission, now: float) -> Verdict:
    """Nobody heard the id of its job, and the queue has none of its name."""
    if evidence.array is not None and evidence.array.refused:
        return Verdict("lost", f"Slurm refused it: {evidence.array.refused}")
    if now - submission.submitted < CONFIRMED_S:
        return Verdict("unknown", "its submission was not confirmed yet")
    return Verdict("lost", "its submission to Slurm was not completed")


def _interruption(evidence: Evidence) -> tuple[str, str]:
    """Cause of the last attempt's end, and the same in words, with what is left of the budget; "" where unknown."""
    attempts = evidence.own_attempts
    if not attempts or attempts[-1].cause is None:
        return "", ""
    last = attempts[-1]
    cause = str(last.cause)
    words = f"{cause}{_count(attempts, evidence)}"
    if last.node:
        words += f" on {last.node}"
    return cause, f"{words}: {last.detail}" if last.detail else words


def _count(attempts: Sequence[Attempt], evidence: Evidence) -> str:
    """How often that cause ended an attempt since the submission, of how many times it may: " 1 of 3"."""
    cause = attempts[-1].cause
    allowed = getattr(evidence.array.budgets, str(cause), None) if evidence.array is not None else None
    if not isinstance(allowed, int):
        return ""
    return f" {sum(attempt.cause == cause for attempt in attempts)} of {allowed}"


def _shown(job: str, entry: QueueEntry) -> str:
    reason = f" ({entry.reason})" if entry.reason not in {"", "None"} else ""
    return f"Slurm job {job} is {entry.state}{reason}"


def _place(heartbeat: Heartbeat) -> str:
    return f"at {heartbeat.phase} {heartbeat.step}/{heartbeat.steps}" if heartbeat.steps else f"in {heartbeat.phase}"
