"""What the evidence about runs proves. Pure, so that every combination can be tested.

A query that fails proves nothing: it yields unknown, never lost, stopped or failed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from types import MappingProxyType

from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.evidence import Evidence, State, Verdict
from hpcseg.runs.records import JOB_NAME, ArrayRecord, Failure, Submission
from hpcseg.runs.recovery import times_of
from hpcseg.slurm.accounting import Fate
from hpcseg.slurm.queue import Queue, QueueEntry
from hpcseg.text import duration

MOVED_S = 60  # a job that gave a sign of life in a renamed folder within so long writes there
STALLED_S = 10 * 60  # whoever is silent for longer deserves a look
SILENCE_S = 15 * 60  # a process on another host that is silent for longer counts as dead; if not, it holds the lock
CONFIRMED_S = 60  # a job that sbatch made though it failed is in the queue by then
SUBMITTING_S = 15 * 60  # nobody is busy with one sbatch for longer
_WAITS = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REVOKED"}
_NEVER = "DependencyNeverSatisfied"


def judge_all(
    evidence: Mapping[str, Evidence],
    needs: Mapping[str, Sequence[str]],
    queue: Queue,
    now: float,
    fates: Mapping[str, Fate] = MappingProxyType({}),
) -> dict[str, Verdict]:
    """Verdict of every run at Unix time `now`, by its own evidence and its ancestors'.

    A run that was not begun is blocked when something that it needs failed or is blocked itself.

    Args:
        evidence: by run.
        needs: ancestors by run.
        queue: what squeue says.
        fates: by job, how those ended that left the queue.
    """
    verdicts: dict[str, Verdict] = {}
    for run_id in _ancestors_first(evidence, needs):
        found = evidence[run_id]
        verdict = judge(found, queue, now, fates.get(found.job or ""))
        if verdict.state in {"new", "stopped", "lost", "queued", "held", "blocked"}:
            dead = {"failed", "blocked"}
            if verdict.state in {"lost", "blocked"} and found.current is None:  # removed from the queue with them
                dead |= {"lost", "stopped"}
            failed = [name for name in needs.get(run_id, ()) if name in verdicts and verdicts[name].state in dead]
            if failed:
                verdict = replace(verdict, state="blocked", why=f"{failed[0]}: {verdicts[failed[0]].why}")
        verdicts[run_id] = replace(verdict, why=" ".join(verdict.why.splitlines()))
    return {run_id: verdicts[run_id] for run_id in evidence}


def _ancestors_first(runs: Collection[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    sorter = TopologicalSorter({run_id: [name for name in needs.get(run_id, ()) if name in runs] for run_id in runs})
    return list(sorter.static_order())


def judge(evidence: Evidence, queue: Queue, now: float, fate: Fate | None = None) -> Verdict:
    """Verdict of a run by its own evidence; `fate` says how its job ended that left the queue."""
    if not evidence.planned:
        return Verdict("new", "not planned yet")
    if evidence.done:
        return Verdict("done", "its result is there")
    if evidence.damage:
        return Verdict("unknown", evidence.damage)
    job, entry = _in_queue(evidence, queue)
    verdict = _left_behind(evidence, entry, now) or _unfinished(evidence, queue, now, fate, job, entry)
    if evidence.unusable and verdict.state in {"new", "stopped", "lost"}:
        verdict = Verdict("lost", f"{evidence.unusable}; the same hpcseg sweep does it again")
    if job is None:
        return verdict
    if entry is None:  # a job of that number is another's, or the run is under way in a process here
        over = job in queue.jobs or (verdict.state in {"running", "stalled"} and not queue.error)
        return replace(verdict, job="" if over else job)
    return replace(verdict, job=job, node=entry.node, ending=entry.state == "COMPLETING")


def _in_queue(evidence: Evidence, queue: Queue) -> tuple[str | None, QueueEntry | None]:
    """The run's Slurm job and what the queue shows of it; a job whose id was never heard is found by its name."""
    submission, job = evidence.submission, evidence.job
    if submission is None or not evidence.on_slurm:
        return None, None
    if queue.error:
        return job, None
    if evidence.moved == "copied":  # what the queue has belongs to the folder that was copied
        return None, None
    if job is None and submission.array:
        job = queue.named(JOB_NAME + submission.array).get(submission.task)
    entry = None if job is None else queue.jobs.get(job)
    return job, entry if entry is not None and _is_of(entry, evidence.array) else None


def _is_of(entry: QueueEntry, array: ArrayRecord | None) -> bool:
    """Whether a job of the array's id is the array's: ids come again on another cluster, or after a crash."""
    if array is None:
        return True
    same_user = array.uid is None or entry.uid is None or entry.uid == array.uid
    return same_user and entry.name in {"", array.job_name}


def _unfinished(
    evidence: Evidence,
    queue: Queue,
    now: float,
    fate: Fate | None,
    job: str | None,
    entry: QueueEntry | None,
) -> Verdict:
    heartbeat, submission = evidence.heartbeat, evidence.submission
    if heartbeat is not None and heartbeat.state == "running" and evidence.job_alive:
        return _working(heartbeat, now)
    if evidence.failure is not None:
        return _failed(evidence.failure, job, entry)
    if submission is None or not evidence.on_slurm:
        return _on_a_host(evidence, now)
    if job is None and evidence.submitter_alive and now - submission.submitted <= SUBMITTING_S:
        return Verdict("queued", "is being submitted")
    if job is not None and entry is not None:
        return _in_line(evidence, job, entry) if entry.state in _WAITS else _on_a_node(evidence, job, entry, now)
    return _unanswered(submission, job, queue) if queue.error else _gone(evidence, submission, job, queue, now, fate)


def _left_behind(evidence: Evidence, entry: QueueEntry | None, now: float) -> Verdict | None:
    """Verdict where the folder of all runs is not the one that the job knows; None: the job works here all the same."""
    array = evidence.array
    if array is None or not evidence.moved or not evidence.on_slurm:
        return None
    if evidence.moved == "copied":
        return Verdict("stopped", f"a copy: its job works in {array.root}; hpcseg sweep goes on with it here")
    if entry is None or evidence.failure is not None:
        return None
    beat = evidence.current
    if entry.state not in _WAITS and beat is not None and now - beat.time < MOVED_S:
        return None
    return Verdict("lost", f"its job looks for {array.root}, which was renamed: hpcseg sweep replaces it")


def _failed(failure: Failure, job: str | None, entry: QueueEntry | None) -> Verdict:
    known = failure.message.startswith(failure.cause)
    words = failure.message if known else f"{failure.cause}: {failure.message}"
    if job is not None and entry is not None and entry.held:
        return Verdict("held", f"{_held(job, entry)}; before that {words}", cause=failure.cause)
    if job is not None and entry is not None and entry.state in _WAITS:
        return Verdict("requeued", f"{_shown(job, entry)} again after {words}", cause=failure.cause)
    return Verdict("failed", words, cause=failure.cause)


def _on_a_host(evidence: Evidence, now: float) -> Verdict:
    """Not on Slurm, and no process of this host works on it."""
    submission, current = evidence.submission, evidence.current
    if current is not None:
        return _abandoned(current, evidence.job_alive, now)
    return Verdict("new", "not submitted yet") if submission is None else _not_begun(evidence, submission)


def _working(heartbeat: Heartbeat, now: float) -> Verdict:
    """A process of this host works on it: does it say anything?"""
    who, silent_s = f"process {heartbeat.pid} on {heartbeat.host} is alive", now - heartbeat.time
    if silent_s > STALLED_S:
        return Verdict("stalled", f"{who}, but silent for {duration(silent_s)} {_place(heartbeat)}")
    return Verdict("running", who)


def _abandoned(heartbeat: Heartbeat, alive: bool | None, now: float) -> Verdict:
    """No process of this host works on the run: how did its last attempt end?"""
    who, where = f"process {heartbeat.pid} on {heartbeat.host}", _place(heartbeat)
    if ended := _ended(heartbeat, where):
        return Verdict("stopped", ended)
    if alive is False:
        return Verdict("lost", f"{who} ended without a word {where}")
    silent_s = now - heartbeat.time
    if silent_s > STALLED_S:
        state: State = "lost" if silent_s >= SILENCE_S else "stalled"
        return Verdict(state, f"{who} gave no sign of life for {duration(silent_s)} {where}")
    return Verdict("running", f"{who} gave a sign of life {duration(silent_s)} ago")


def _not_begun(evidence: Evidence, submission: Submission) -> Verdict:
    """Submitted on a host, and not begun."""
    if submission.cancelled is not None or submission.released:
        return Verdict("stopped", f"{'cancelled' if submission.cancelled else 'its pool ended'} before it began")
    if evidence.submitter_alive is None:
        return Verdict("unknown", f"submitted on {submission.host}; if nobody works there, hpcseg retry frees it")
    if evidence.submitter_alive:
        return Verdict("queued", "waits for a slot")
    return Verdict("stopped", "the process that was to run it ended before it began")


def _in_line(evidence: Evidence, job: str, entry: QueueEntry) -> Verdict:
    """Its job is in the queue, for the first time or again."""
    shown = _shown(job, entry)
    if entry.reason == _NEVER:
        return Verdict("blocked", f"{shown}: a job that it waits for failed")
    if entry.held:
        return Verdict("held", _held(job, entry))
    if entry.restarts or evidence.current is not None:
        cause, words = _interruption(evidence)
        return Verdict("requeued", f"{shown} again" + (f" after {words}" if words else ""), cause=cause)
    return Verdict("queued", shown)


def _held(job: str, entry: QueueEntry) -> str:
    return f"{_shown(job, entry)} until it is released: scontrol release {job}"


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
        silent = f"silent for {duration(now - heard)}"
        at = _place(heartbeat) if heartbeat is not None and heard == heartbeat.time else "since it began"
        return Verdict("stalled", f"{shown}{where}, but {silent} {at}")
    return Verdict("running", shown + where)


def _unanswered(submission: Submission, job: str | None, queue: Queue) -> Verdict:
    name = f"Slurm job {job}" if job else f"Slurm job {JOB_NAME}{submission.array}, not confirmed"
    return Verdict("unknown", f"{name}: {queue.error}")


def _gone(
    evidence: Evidence, submission: Submission, job: str | None, queue: Queue, now: float, fate: Fate | None
) -> Verdict:
    """Slurm's queue answered, and does not have the job."""
    current = evidence.current
    name = f"Slurm job {job}" if job else "its Slurm job"
    hidden = _hidden(evidence.array, queue)
    if hidden:
        return Verdict("unknown", f"{name}: {hidden}")
    where = _place(current) if current is not None else "before it began"
    if submission.cancelled is not None:
        return Verdict("stopped", f"{name} was cancelled {where}", cause="cancelled")
    cause, words = _interruption(evidence)
    if cause != "disk" and (ended := _ended(current, where)):
        return Verdict("stopped", f"{name} {ended}")
    if job is None and current is None:
        return _never_seen(evidence, submission, now)
    node = ""
    if not cause and fate is not None:
        cause, words, node = fate.cause, fate.words, fate.node
    if cause == "cancelled":
        return Verdict("stopped", f"{name} was cancelled {where}", cause=cause, node=node)
    state: State = "failed" if cause == "disk" else "lost"  # which could not even be written down
    return Verdict(state, f"{name} left the queue {where}" + (f": {words}" if words else ""), cause=cause, node=node)


def _hidden(array: ArrayRecord | None, queue: Queue) -> str:
    """Why the queue may not show a job that is there: another cluster's, or another user's. "": it would."""
    if array is None:
        return ""
    there = queue.cluster
    if there is not None and array.cluster and array.cluster != there.name:
        return f"submitted to the cluster {array.cluster}, and this one is {there.name}"
    if array.uid in {None, queue.uid} or (there is not None and there.shows_others):
        return ""
    return f"submitted by the user with number {array.uid}, and Slurm does not show here what others have in the queue"


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
    """How often that cause ended attempts of the job, as its budget counts, of how many times it may: " 1 of 3"."""
    last = attempts[-1]
    allowed = getattr(evidence.array.budgets, str(last.cause), None) if evidence.array is not None else None
    if last.cause is None or not isinstance(allowed, int):
        return ""
    times = times_of(last.cause, [attempt for attempt in attempts if attempt.job == last.job])
    return f" {times} of {allowed}" if 0 < times <= allowed else ""


def _shown(job: str, entry: QueueEntry) -> str:
    reason = f" ({entry.reason})" if entry.reason not in {"", "None"} else ""
    return f"Slurm job {job} is {entry.state}{reason}"


def _ended(heartbeat: Heartbeat | None, where: str) -> str:
    """How an attempt ended that saved, or whose failure `hpcseg retry` has cleared; "" otherwise."""
    words = {"stopped": f"saved and stopped {where}", "failed": f"failed {where}, and was cleared"}
    return "" if heartbeat is None else words.get(heartbeat.state, "")


def _place(heartbeat: Heartbeat) -> str:
    return f"at {heartbeat.phase} {heartbeat.step}/{heartbeat.steps}" if heartbeat.steps else f"in {heartbeat.phase}"
