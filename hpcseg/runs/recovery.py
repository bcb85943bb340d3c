"""What is done about an attempt that did not get to the end: again, with other resources, or not any more. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Annotated

from pydantic import Field

from hpcseg.runs.attempts import Attempt, Cause
from hpcseg.sections import Section, key

_ENOUGH = "ours: as often as that may be chance"
Times = Annotated[int, Field(ge=0)]
_AT_LIMIT = frozenset({"limit", "timeout"})
_MEBIBYTES = {"K": 1 / 1024, "M": 1.0, "": 1.0, "G": 1024.0, "T": 1024.0**2}


class Budgets(Section):
    """How often a run is begun again by itself, by cause; errors of the stage never are.

    All but `memory` count in a row without progress: a run that gets on goes on without limit. Who submits a run again
    by hand begins to count anew.
    """

    idle_limits: Times = key(
        2, "attempts that came to the time limit, in a row without progress", unit="times", source=_ENOUGH
    )
    preempted: Times = key(
        1000,
        "preemptions, in a row without progress; likewise returns to the queue without a word why",
        unit="times",
        source="ours: they are nobody's fault",
    )
    node: Times = key(3, "failures of its node, in a row without progress", unit="times", source=_ENOUGH)
    memory: Times = key(3, "that it used up its job's memory, in all", unit="times", source=_ENOUGH)
    memory_growth: Annotated[float, Field(gt=1)] = key(
        1.5, "what its memory is multiplied by each time", unit="factor", source="ours: 3.4 times as much after three"
    )
    memory_max: Annotated[str, Field(pattern=r"^(\d+[KMGT]?B?)?$")] = key(
        "", 'at most so much of a node, such as "180G"; "": what the largest node has', source="sbatch --mem"
    )
    killed: Times = key(2, "kills without a word why, in a row without progress", unit="times", source=_ENOUGH)
    unbegun: Times = key(
        2, "jobs in which hpcseg did not begin (no container, no Python), in a row", unit="times", source=_ENOUGH
    )


@dataclass(frozen=True)
class Decision:
    """What to do after an attempt.

    Attributes:
        again: whether the job is handed back to the queue.
        memory_mb: of each node, that it is to ask for from now on; None: as before.
        exclude: nodes that it had better not get again.
        why: for humans, in a line; with what to change where the job is not begun again.
    """

    again: bool
    why: str
    memory_mb: int | None = None
    exclude: tuple[str, ...] = ()


def decide(
    cause: Cause,
    attempts: Sequence[Attempt],
    budgets: Budgets,
    *,
    stage: str,
    minutes: int = 0,
    memory_mb: int = 0,
    most_mb: int = 0,
) -> Decision:
    """What follows the last of `attempts`, which ended by `cause`.

    Args:
        cause: of its end; one that nobody can help by doing the same again (python, input, ...) ends the run.
        attempts: of one job in their order, the last one included.
        budgets: how often.
        stage: one of `hpcseg.paths.STAGES`, for the words.
        minutes: time limit of the job, for the words.
        memory_mb: what the job had on each node; 0: not known.
        most_mb: the most that it may be given (`memory_max`, or the memory of the largest node); 0: not known.
    """
    times = times_of(cause, attempts)
    node = attempts[-1].node if attempts else ""
    match cause:
        case "limit" | "timeout":
            # The first attempt without progress is one too; the budget says how many there may be.
            decision = _within(
                times, max(budgets.idle_limits, 1) - 1, "the time limit", _idle_words(times, minutes, stage)
            )
        case "preempted":
            decision = _within(times, budgets.preempted, "preempted", f"preempted {times} times without progress")
        case "node":
            over = (
                f"{times} times its node failed, the last was {node}, and no progress: ask the cluster's administrators"
            )
            decision = _without(node, _within(times, budgets.node, f"node {node} failed", over))
        case "killed":
            over = (
                f"killed {times} times without progress and without a word why, last on {node}: see its log; "
                f"if memory may be short, give more to [slurm.{stage}]"
            )
            decision = _without(node, _within(times, budgets.killed, f"killed on {node}", over))
        case "unbegun":
            line = attempts[-1].detail if attempts else ""
            over = f"{times} times in a row hpcseg did not begin in its job, last on {node}: {line}"
            decision = _without(node, _within(times, budgets.unbegun, f"did not begin on {node}", over))
        case "memory":
            decision = _more_memory(attempts, budgets, stage, memory_mb, most_mb)
        case "requeued":
            over = f"requeued {times} times without progress and without a word why, last from {node}: see its log"
            decision = _within(times, budgets.preempted, "requeued", over)
        case _:
            decision = Decision(False, cause)
    return decision


def times_of(cause: Cause, attempts: Sequence[Attempt]) -> int:
    """How often the cause ended attempts of one job, as its budget counts: in a row without progress, memory in all.

    Both kinds of coming to the time limit count together.
    """
    alike = _AT_LIMIT if cause in _AT_LIMIT else {cause}
    return sum(attempt.cause in alike for attempt in (attempts if cause == "memory" else _idle(attempts)))


def grown_mb(memory_mb: int, budgets: Budgets, most_mb: int) -> int:
    """Memory to ask for after `memory_mb` were used up, at most `most_mb` (0: no bound)."""
    wanted = math.ceil(memory_mb * budgets.memory_growth)
    return min(wanted, most_mb) if most_mb else wanted


def mebibytes(text: str) -> int:
    """Slurm's notations of an amount of memory (48G, 900M, 4000, 2T) in MiB; 0 for an empty one."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text)
    return math.ceil(int(match[1]) * _MEBIBYTES[match[2]]) if match else 0


def _idle(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The last attempts, as many as did nothing that the next one could go on from."""
    # What has less than at its beginning did begin anew, and got on.
    return list(takewhile(lambda one: one.progress_ended in (None, one.progress_began), reversed(attempts)))


def _within(times: int, budget: int, what: str, over: str) -> Decision:
    if times > budget:
        return Decision(False, over)
    return Decision(True, f"{what} ({times} of {budget} times without progress)" if times else what)


def _without(node: str, decision: Decision) -> Decision:
    return replace(decision, exclude=(node,)) if decision.again and node else decision


def _idle_words(times: int, minutes: int, stage: str) -> str:
    limit = f" of {minutes} min" if minutes else ""
    return (
        f"{times} attempts in a row came to the time limit{limit} without progress: give more time to [slurm.{stage}], "
        "or see the log for what takes so long"
    )


def _more_memory(attempts: Sequence[Attempt], budgets: Budgets, stage: str, memory_mb: int, most_mb: int) -> Decision:
    times = times_of("memory", attempts)
    had = f"{memory_mb} MB" if memory_mb else "the memory"
    less = "patches or volumes in memory at a time (fewer cpus" + (")" if stage == "pack" else ", tier = 'streamed')")
    if times > budgets.memory:
        return Decision(
            False,
            f"used up the host memory {times} times, the last time {had}: give more memory to [slurm.{stage}], "
            f"or hold fewer {less}",
        )
    if not memory_mb:
        return Decision(True, f"used up the host memory ({times} of {budgets.memory} times)")
    given = grown_mb(memory_mb, budgets, most_mb)
    if given <= memory_mb:
        whose = "slurm.budgets.memory_max" if budgets.memory_max else "the largest node"
        return Decision(False, f"used up {had} of host memory, and {whose} allows no more: hold fewer {less}")
    why = f"used up {had} of host memory ({times} of {budgets.memory} times): asks for {given} MB"
    return Decision(True, why, memory_mb=given)
