"""`attempts.jsonl` of a run: one line when an attempt begins and one when it ends, and why.

Lines are appended by the job itself; what a killed job could not write is added by whoever comes next: the batch script
that outlives it (hpcseg.jobs.aftermath) or the run's next attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from hpcseg.files import leave_out
from hpcseg.heartbeat import Moment
from hpcseg.paths import ATTEMPTS_FILE
from hpcseg.seals import append_line, json_lines
from hpcseg.text import in_words

# How an attempt ended: done; limit: saved before its time limit; preempted; requeued: scontrol requeue, or a reason
# that is not known; cancelled; stopped: asked to save and stop; node: its node failed; memory: the host's, used up;
# killed: SIGKILL without a word why; unbegun: before hpcseg began in it (no container, no Python); timeout: killed at
# its time limit, unsaved; input, cuda-memory, disk, python: an error of the stage, see error.json; superseded: another
# job has the run.
Cause = Literal[
    "done",
    "limit",
    "preempted",
    "requeued",
    "cancelled",
    "stopped",
    "node",
    "memory",
    "killed",
    "unbegun",
    "timeout",
    "input",
    "cuda-memory",
    "disk",
    "python",
    "superseded",
]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Attempt:
    """One attempt at a run; times are Unix seconds, `cause` is None while it runs or nobody knows how it ended.

    Attributes:
        number: as in the heartbeat: 1 for the first.
        job: Slurm's id (array_task), or the process on a host.
        restart: how often Slurm had requeued the job.
        node: where it ran.
        gpus: that it held.
        memory_mb: that it was given on each node; 0 where nobody says.
        began, ended: when.
        progress_began, progress_ended: work done by then in comparable units (see `Control.progress`).
        lost_s: time since the last save that the next attempt has to do again.
        cause, detail: how it ended, in a word and in a line.
        array: tag of the Slurm array that the job is a task of, whose folder holds its output; "" outside Slurm.
        logs: bytes that each file of its job's output had when it began, by name; what follows is its own.
    """

    number: int
    job: str
    node: str
    began: Moment
    restart: int = 0
    gpus: int = 0
    memory_mb: int = 0
    progress_began: int = 0
    ended: Moment | None = None
    progress_ended: int | None = None
    lost_s: Annotated[float, Field(ge=0, lt=1e11)] = 0.0
    cause: Cause | None = None
    detail: str = ""
    array: str = ""
    logs: dict[str, int] = field(default_factory=dict)


_ADAPTER = TypeAdapter(Attempt)


def write_attempt(run: Path, attempt: Attempt) -> None:
    """Append what is known of an attempt at the run directory `run`, its beginning or its end, synced."""
    event = "begin" if attempt.ended is None else "end"
    append_line(run / ATTEMPTS_FILE, {"event": event, **asdict(attempt)}, run.name)


def read_attempts(run: Path) -> list[Attempt]:
    """All attempts of a run in their order, each as it is known last; lines that are none are left out, with a note."""
    found: dict[tuple[int, str, int], Attempt] = {}
    for value in json_lines(run / ATTEMPTS_FILE, run.name):
        value.pop("event", None)
        try:
            attempt = _ADAPTER.validate_python(value)
        except ValidationError as error:
            leave_out(f"{run / ATTEMPTS_FILE}: a line is no attempt ({in_words(error.errors()[0])})")
            continue
        key = attempt.number, attempt.job, attempt.restart
        if attempt.ended is not None or key not in found:  # a beginning that stands behind its end says nothing new
            found[key] = attempt
    return sorted(found.values(), key=lambda attempt: attempt.number)


def gpu_seconds(attempts: Sequence[Attempt], now: float) -> tuple[float, float]:
    """GPU seconds used and lost by attempts; one without an end runs until `now`."""
    used = sum(a.gpus * ((now if a.ended is None else a.ended) - a.began) for a in attempts)
    return used, sum(a.gpus * a.lost_s for a in attempts)
