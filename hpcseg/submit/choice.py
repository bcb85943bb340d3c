"""What of a plan is handed to Slurm, and in which arrays: what `--plan` shows is what submission does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.evidence import TO_SUBMIT, Verdict
from hpcseg.runs.recovery import grown_mb, mebibytes
from hpcseg.runs.rundir import RunDir
from hpcseg.study.plan import Plan
from hpcseg.submit.arrange import Array, Request, arrange
from hpcseg.submit.profile import SlurmProfile


@dataclass(frozen=True)
class Choice:
    """What to hand to Slurm.

    Attributes:
        taken: runs to submit, ancestors first.
        jobs: Slurm's ids of the unfinished ancestors that are in the queue already.
        waiting: runs that cannot be submitted yet, and why.
    """

    taken: tuple[str, ...]
    jobs: dict[str, str]
    waiting: dict[str, str]


def needs_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    """What each run of a plan needs, by id; ancestors come first."""
    return {run_id: planned.needs for run_id, planned in plan.stages.items()}


def choose(needs: Mapping[str, Sequence[str]], verdicts: Mapping[str, Verdict]) -> Choice:
    """Which of the runs (ancestors first) are submitted. Pure.

    A run that waits in the queue for a job which is now replaced is submitted again with it. A run whose ancestor is
    under way outside Slurm, or nobody knows where, waits: Slurm would let it begin at once.
    """
    taken: dict[str, None] = {}
    jobs: dict[str, str] = {}
    waiting: dict[str, str] = {}
    for run_id, ancestors in needs.items():
        state = verdicts[run_id].state
        if state not in TO_SUBMIT and not (state == "queued" and any(need in taken for need in ancestors)):
            continue
        for need in ancestors:
            verdict = verdicts[need]
            if verdict.state == "done" or need in taken:
                continue
            if need in waiting or verdict.state == "unknown" or not verdict.job:
                waiting[run_id] = f"needs {need}, which is {verdict.state} ({waiting.get(need, verdict.why)})"
                break
            jobs[need] = verdict.job
        else:
            taken[run_id] = None
    return Choice(tuple(taken), jobs, waiting)


def arrays_of(plan: Plan, choice: Choice, profile: SlurmProfile, limit: int) -> list[Array]:
    """The arrays that submit what was chosen, those that others wait for first.

    An ancestor that is in the queue already stands in `Array.after` by its job's id.

    Args:
        plan: holds the runs.
        choice: of its stages.
        profile: says what memory a job asks for; one that used it up before asks for more.
        limit: task indices are below it (Slurm's MaxArraySize).
    """
    names = {**{run_id: run_id for run_id in choice.taken}, **choice.jobs}
    requests = []
    for run_id in choice.taken:
        planned = plan.stages[run_id]
        request = Request(
            run=run_id,
            stage=planned.stage,
            needs=frozenset(names[need] for need in planned.needs if need in names),
            column=planned.column,
            memory_mb=_memory_mb(plan.run(run_id), profile),
        )
        requests.append(request)
    return arrange(requests, limit)


def _memory_mb(run: RunDir, profile: SlurmProfile) -> int:
    """Memory of each node that a run asks for: the profile's, or more than what it used up before."""
    used_up = [attempt.memory_mb for attempt in read_attempts(run.path) if attempt.cause == "memory"]
    return grown_memory_mb(mebibytes(profile.of(run.stage).memory), max(used_up, default=0), profile)


def grown_memory_mb(asked_mb: int, used_up_mb: int, profile: SlurmProfile) -> int:
    """Memory to ask for when a run used up `used_up_mb` before (0: it did not). Pure."""
    if not used_up_mb:
        return asked_mb
    return max(asked_mb, grown_mb(used_up_mb, profile.budgets, mebibytes(profile.budgets.memory_max)))
