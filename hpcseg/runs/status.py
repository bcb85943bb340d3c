"""What `hpcseg status` shows: one line per run, and all of them added up."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from hpcseg.runs.attempts import gpu_seconds
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import OPEN, Evidence, State, Verdict
from hpcseg.runs.selection import runs_of
from hpcseg.runs.states import read_states


@dataclass(frozen=True)
class RunStatus:
    """One line of `hpcseg status`; numbers are those of the last heartbeat.

    `attempts` were begun so far; GPU hours are those of all of them, and what of it has to be done again.
    """

    id: str
    stage: str
    state: State
    why: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    loss: float | None = None
    dice: float | None = None
    dsc: float | None = None
    eta_s: float | None = None
    attempt: int = 0
    job: str = ""
    node: str = ""
    cause: str = ""
    attempts: int = 0
    gpu_hours: float = 0.0
    gpu_hours_lost: float = 0.0


@dataclass(frozen=True)
class Totals:
    """All lines of a status in one.

    Attributes:
        states: how many runs are in each state.
        waiting: of the runs in the queue, how many wait for what reason, as Slurm names it.
        gpu_hours, gpu_hours_lost: of all attempts.
        eta_s: until the last of the running ones ends its phase; None where none knows.
    """

    runs: int
    states: dict[str, int]
    waiting: dict[str, int]
    gpu_hours: float
    gpu_hours_lost: float
    eta_s: float | None


def read_status(runs_root: Path, sweeps: Sequence[str] = (), ends: Ends | None = None) -> list[RunStatus]:
    """State of all runs of the applied sweeps (all of them by default), ancestors first.

    squeue is asked once, and sacct at most once. `ends` remembers what sacct said, for whoever calls this again.

    Raises:
        BadInput: no such sweep was applied here, or its record is damaged.
    """
    runs, needs = runs_of(runs_root, sweeps)
    evidence, verdicts, _ = read_states(runs, needs, ends or Ends(), attempts=True)
    now = time.time()
    return [line_of(run.id, run.stage, verdicts[run.id], evidence[run.id], now) for run in runs]


_OF_HEARTBEAT = ("phase", "step", "steps", "epoch", "loss", "dice", "dsc", "eta_s", "attempt")


def line_of(run_id: str, stage: str, verdict: Verdict, evidence: Evidence, now: float) -> RunStatus:
    """The line of one run at Unix time `now`; its evidence holds its attempts."""
    attempts, heartbeat = evidence.attempts, evidence.heartbeat
    used_s, lost_s = gpu_seconds_of(evidence, verdict, now) if attempts else (0.0, 0.0)
    last = {name: getattr(heartbeat, name) for name in _OF_HEARTBEAT} if heartbeat is not None else {}
    return RunStatus(
        id=run_id,
        stage=stage,
        state=verdict.state,
        why=verdict.why,
        **(last if verdict.state == "running" else last | {"eta_s": None}),
        job=verdict.job or evidence.job or "",
        node=verdict.node or (attempts[-1].node if attempts else ""),
        cause=verdict.cause,
        attempts=len(attempts),
        gpu_hours=round(used_s / 3600, 4),
        gpu_hours_lost=round(lost_s / 3600, 4),
    )


def add_up(lines: Sequence[RunStatus]) -> Totals:
    """Totals of a status. Pure."""
    reasons = (re.search(r" is [A-Z_]+ \(([^()]*)\)", line.why) for line in lines if line.state == "queued")
    etas = [line.eta_s for line in lines if line.eta_s is not None]
    return Totals(
        runs=len(lines),
        states=dict(Counter(line.state for line in lines)),
        waiting=dict(Counter(found[1] for found in reasons if found).most_common()),
        gpu_hours=round(sum(line.gpu_hours for line in lines), 3),
        gpu_hours_lost=round(sum(line.gpu_hours_lost for line in lines), 3),
        eta_s=max(etas, default=None),
    )


def gpu_seconds_of(evidence: Evidence, verdict: Verdict, now: float) -> tuple[float, float]:
    """GPU seconds used and lost by a run's attempts. Pure.

    An attempt that nobody ended ran until the next began, or, unless its job is at it, until the last heartbeat.
    """
    attempts, known = evidence.attempts, []
    for attempt, following in zip_longest(attempts, attempts[1:]):
        end = attempt.ended
        if end is None and following is not None:
            end = following.began
        elif end is None and verdict.state not in OPEN - {"queued", "held", "requeued"}:
            end = max(attempt.began, evidence.heartbeat.time) if evidence.heartbeat is not None else attempt.began
        known.append(replace(attempt, ended=end))
    return gpu_seconds(known, now)
