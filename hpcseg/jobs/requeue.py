"""What follows the end of a Slurm job that did not finish its run: back to the queue, or the run has failed."""

from __future__ import annotations

import time
from collections.abc import Collection

from hpcseg.errors import SchedulerError, StageFailed
from hpcseg.runs.attempts import Cause, read_attempts
from hpcseg.runs.ends import End
from hpcseg.runs.records import ArrayRecord, Asked
from hpcseg.runs.recovery import Budgets, Decision, decide, mebibytes
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import REQUEUE_S, JobFacts, SlurmJob, ask_about, requeue
from hpcseg.slurm.nodes import largest_mb, read_nodes, recent_bad, to_exclude

_BEFORE_END_S = 15.0  # of a job's limit: what is left to say goes to the log


def why_stopped(
    reasons: Collection[str],
    cancelled: bool,
    restart: int,
    facts: JobFacts | None,
    logged: End | None,
    *,
    gathering: bool = False,
) -> tuple[Cause, bool]:
    """Why a job was asked to stop, and whether it has to be requeued for the run to go on. Pure.

    Args:
        reasons: why it asked itself (see `hpcseg.jobs.stopping`).
        cancelled: whether `hpcseg cancel` cancelled it.
        restart: how often it had been requeued when it began.
        facts: what Slurm says now; None: it does not answer, and the log counts.
        logged: what the log says.
        gathering: whether several ranks were about to meet. A job that Slurm says runs is then ended by srun alone, as
            another rank has ended: taken for a request, it would come back for ever.
    """
    if "superseded" in reasons or cancelled:
        return "superseded" if "superseded" in reasons else "cancelled", False
    word = None if logged is None else logged.cause
    if facts is None and word in {"cancelled", "requeued", "preempted", "node"}:
        return word, False
    if facts is not None and facts.restarts > restart:
        return word if word in {"preempted", "node"} else "requeued", False
    if facts is not None and not facts.may_be_requeued:
        # Where preemption cancels jobs (PreemptMode=CANCEL), Slurm takes them back all the same.
        return ("preempted", True) if word == "preempted" else ("cancelled", False)
    if facts is not None and facts.preempted:
        return "preempted", True
    at_limit = "limit" in reasons or (facts is not None and facts.reason == "TimeLimit")
    return "limit" if at_limit else "killed" if gathering and facts is not None else "requeued", True


def is_warning(facts: JobFacts | None) -> bool:
    """Whether a USR2 that came now is Slurm's warning before the time limit: in the second half of it, or a minute
    earlier, as Slurm is not more punctual than that."""
    if facts is None or facts.end is None or facts.start is None:
        return False
    return facts.end - time.time() < 0.5 * (facts.end - facts.start) + 60


def check_budget(run: RunDir, job: SlurmJob, array: ArrayRecord | None, cause: Cause) -> Decision:
    """What the run needs to go on after its last attempt, which ended by `cause`.

    Raises:
        StageFailed: it may not go on any more.
    """
    budgets = Budgets() if array is None else array.budgets
    asked = Asked(minutes=0, memory_mb=0) if array is None else array.asked
    most_mb = 0
    if cause == "memory":
        most_mb = mebibytes(budgets.memory_max) or largest_mb(job.partition)
    decision = decide(
        cause,
        [attempt for attempt in read_attempts(run.path) if attempt.job == job.task],
        budgets,
        stage=run.stage,
        minutes=asked.minutes,
        memory_mb=job.memory_mb or asked.memory_mb,
        most_mb=most_mb,
    )
    if not decision.again:
        raise StageFailed(cause, decision.why)
    return decision


def requeue_or_fail(run: RunDir, job: SlurmJob, array: ArrayRecord | None, cause: Cause) -> str:
    """Requeue this job after an attempt that ended by `cause`, with what it needs now; says how.

    Raises:
        StageFailed: the run has to stop here, or Slurm does not take the job back; `error.json` says so, too.
    """
    try:
        decision = check_budget(run, job, array, cause)
        run.clear_failure()
        try:
            exclude, wait_s = _exclude(run, job, array, decision), patience_s(job, cause, time.time())
            how = requeue(job.task, decision.memory_mb, exclude, wait_s)
        except SchedulerError as error:
            facts = ask_about(job.task)
            if facts is not None and facts.restarts > job.restart:
                return f"{decision.why}: Slurm has requeued it by itself"  # as when another of its nodes failed
            ended = "it saved" if decision.why == cause else f"it ended ({decision.why})"
            why = f"{ended}, and Slurm did not take it back: {error}; hpcseg sweep submits the run again"
            raise StageFailed(cause, why) from None
    except StageFailed as failed:
        run.write_error(failed)
        raise
    return f"{decision.why}: {how}"


def patience_s(job: SlurmJob, cause: Cause, now: float) -> float:
    """How long Slurm is asked to take a job back: one that was warned of its limit has the time until then. Pure."""
    left = job.end - now - _BEFORE_END_S if job.end and cause == "limit" else 0.0
    return max(REQUEUE_S, left)


def _exclude(run: RunDir, job: SlurmJob, array: ArrayRecord | None, decision: Decision) -> tuple[str, ...]:
    """Nodes that the job has to do without from now on; none where that would leave too few, or nothing is new."""
    asked = set() if array is None else set(array.asked.exclude)
    bad = {*decision.exclude, *recent_bad(run.runs_root, time.time())}
    if bad <= asked:
        return ()
    return to_exclude(sorted(asked | bad), read_nodes(job.partition), job.nodes)
