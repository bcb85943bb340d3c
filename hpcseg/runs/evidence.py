"""What is known about a run, and the states that follow from it (see hpcseg.runs.judge).

States: new (never submitted), queued, held (in the queue until somebody releases it), running, stalled (its process or
job is there, and silent), requeued (in the queue again after it had begun), stopped (nobody works on it, and nothing is
wrong), done, failed, lost (its process or job is gone without a word), blocked (something that it needs failed),
unknown (the scheduler does not answer, or a record cannot be read).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.records import ArrayRecord, Failure, Submission

State = Literal[
    "new", "queued", "held", "running", "stalled", "requeued", "stopped", "done", "failed", "lost", "blocked", "unknown"
]
Moved = Literal["", "renamed", "copied"]
TO_SUBMIT: frozenset[State] = frozenset({"new", "stopped", "failed", "lost", "blocked"})
OPEN: frozenset[State] = frozenset({"queued", "held", "running", "stalled", "requeued", "unknown"})  # may go on


@dataclass(frozen=True)
class Evidence:
    """What the files of one run directory say, and of the processes that they name which are there.

    Attributes:
        job_alive: whether the process that wrote the heartbeat is there; None: not of this host, or nobody asked.
        submitter_alive: whether who submitted the run is still at it: the pool of local slots, or another hpcseg that
            calls sbatch; None as above.
        array: that the submission is a task of.
        attempts: where they were asked for.
        damage: a record that cannot be read.
        moved: whether the folder of all runs has another name than its Slurm job knows: renamed since, or copied.
        unusable: why its result is there and may not be used; the run is not done then.
    """

    planned: bool = False
    done: bool = False
    submission: Submission | None = None
    heartbeat: Heartbeat | None = None
    job_alive: bool | None = None
    submitter_alive: bool | None = None
    failure: Failure | None = None
    array: ArrayRecord | None = None
    attempts: tuple[Attempt, ...] = ()
    damage: str = ""
    unusable: str = ""
    moved: Moved = ""

    @property
    def on_slurm(self) -> bool:
        """Whether the run was last submitted to Slurm."""
        return self.submission is not None and self.submission.backend == "slurm"

    @property
    def job(self) -> str | None:
        """The job that was submitted last: Slurm's id (array_task), or a process of the host; None: not known."""
        if self.submission is None:
            return None
        if not self.on_slurm:
            return self.submission.job_id
        if self.array is None or self.array.job_id is None:
            return None
        return f"{self.array.job_id}_{self.submission.task}"

    @property
    def current(self) -> Heartbeat | None:
        """The heartbeat, unless it is of an earlier submission: then it says nothing about this one."""
        if self.heartbeat is None or self.submission is None or self.heartbeat.attempt >= self.submission.attempt:
            return self.heartbeat
        return None

    @property
    def own_attempts(self) -> list[Attempt]:
        """Attempts since the last submission."""
        first = 0 if self.submission is None else self.submission.attempt
        return [attempt for attempt in self.attempts if attempt.number >= first and attempt.cause != "superseded"]


@dataclass(frozen=True)
class Verdict:
    """The state of a run, and the evidence for it in one line.

    Attributes:
        job: Slurm's id of its job, also where only the queue tells it.
        node: where its job is or was.
        cause: of a failure or interruption, in a word (`attempts.Cause`).
        ending: its job is COMPLETING: look again before anything is decided.
    """

    state: State
    why: str
    job: str = ""
    node: str = ""
    cause: str = ""
    ending: bool = False
