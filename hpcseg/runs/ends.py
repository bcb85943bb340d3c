"""How jobs ended: by what Slurm wrote into their logs, by the exit code of srun, by Slurm's accounting."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcseg.owners import regular
from hpcseg.runs.attempts import Cause
from hpcseg.runs.records import JOB_NAME
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.accounting import Fate, read_accounts

TAIL_BYTES = 16384
ASKED_AGAIN_S = 30.0  # accounting may be late, or there may be none
_CANCELLED = re.compile(r"\*\*\* (JOB|STEP) \S+ ON (\S+) CANCELLED AT \S+?(?: DUE TO (.+?))? \*\*\*")
_DUE_TO: dict[str, Cause] = {
    "JOB REQUEUE": "requeued",
    "PREEMPTION": "preempted",
    "TIME LIMIT": "timeout",
    "NODE FAILURE": "node",
}
_EXCEPTION = "Submitted job triggered an exception"  # as submitit says it
_RANK_LOST = re.compile(r"(?:\[rank\d+\]: )?(?:\w+\.)*RankLost(?:: |$)")
_CAUSES: tuple[tuple[re.Pattern[str], Cause], ...] = (
    (
        re.compile(r"oom[-_]kill event|exceeded (?:job |step )?memory limit|: task [\d,\-]+: Out Of Memory", re.I),
        "memory",
    ),
    (
        re.compile(
            r"\b(?:OSError|RuntimeError|StageFailed): .*(?:No space left on device|Disk quota exceeded|File too large"
            r"|: no space left|: the quota is used up|: files may not grow)"
        ),
        "disk",
    ),
    (re.compile(_EXCEPTION), "python"),
)
# What srun and the step say of a task that ended.
_OF_SRUN = re.compile(
    r"srun: (?:error: .*: tasks? [\d,\-]+: |launch|Terminating|Job step|Force Terminated|forcing job|got )"
    r"|slurmstepd\S*: error: \*\*\* |submitit "
)
_TASK_ENDED = re.compile(r"^srun: error: .*: tasks? [\d,\-]+: .+")


@dataclass(frozen=True)
class End:
    """How a job ended: the cause, and the line of the log that says so."""

    cause: Cause
    line: str


def end_of(log: str, node: str = "") -> End | None:
    """What the log says about the end of the attempt that wrote it; None if it says nothing. Pure.

    Args:
        log: standard error of the job and its tasks, from the beginning of the attempt on.
        node: where it ran; what is said of other nodes belongs to another attempt. "": any.
    """
    found: End | None = None
    lines = log.splitlines()
    for number, line in enumerate(lines):
        cause = _cause_in(line, node)
        if cause is None or (found is not None and cause == found.cause):
            continue
        if cause == "python" and _follows_a_lost_rank(lines[number + 1 :]):
            continue
        # An exception says less than what went before: a killed worker or rank is the reason of many.
        if not (cause == "python" and found is not None and found.cause in {"memory", "disk"}):
            found = End(cause, line.strip())
    return found


def end_of_failed(log: str, code: int, node: str = "") -> End:
    """How a job ended whose srun gave exit code `code`, where the job itself left no word: killed, if nobody says."""
    found = end_of(log, node)
    if found is not None:
        return found
    ended = [line.strip() for line in log.splitlines() if _TASK_ENDED.match(line.strip())]
    return End("killed", ended[-1] if ended else explain_code(code))


def end_of_unbegun(log: str, code: int, node: str = "") -> End:
    """How a job ended in which hpcseg did not begin: what went before srun's own words is the cause's own line."""
    found = end_of(log, node)
    if found is not None and found.cause != "requeued":  # which Slurm has to confirm
        return found
    return End("unbegun", last_line(log) or explain_code(code))


def explain_code(code: int) -> str:
    """An exit code of a shell in words."""
    if code > 128:
        try:
            return f"ended by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"exit code {code}"


def last_line(log: str) -> str:
    """The last line that says something, srun's own words about its tasks only where there is no other; or ""."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if not _OF_SRUN.match(line)]
    return (own or lines or [""])[-1]


def _cause_in(line: str, node: str) -> Cause | None:
    match = _CANCELLED.search(line)
    if match is not None:
        what, where, why = match.groups()
        if node and "[" not in node and "," not in node and where != node:
            return None
        if why is None:
            # srun also ends its step by itself, when one of its tasks failed.
            return "cancelled" if what == "JOB" else None
        return next((cause for words, cause in _DUE_TO.items() if why.startswith(words)), "requeued")
    return next((cause for pattern, cause in _CAUSES if pattern.search(line)), None)


def _follows_a_lost_rank(lines: Sequence[str]) -> bool:
    """Whether the exception that these lines tell first is that another rank was gone, which is no cause by itself."""
    for line in lines:
        if _EXCEPTION in line:
            return False
        if _RANK_LOST.match(line):
            return True
    return False


@dataclass
class Ends:
    """What was found out about jobs that left the queue without a word, kept for whoever asks again and again."""

    _accounted: dict[str, Fate] = field(default_factory=dict)
    _guessed: dict[str, Fate | None] = field(default_factory=dict)
    _asked: float = 0.0

    def of(self, gone: Mapping[str, RunDir]) -> dict[str, Fate]:
        """By job: what accounting says, asked once at most, or else what the job's own output does."""
        open_ = [job for job in gone if job not in self._accounted]
        if any(job not in self._guessed for job in open_) or (open_ and time.monotonic() > self._asked + ASKED_AGAIN_S):
            self._asked = time.monotonic()
            self._accounted |= {job: fate for job, fate in read_accounts(open_).items() if _is_of(fate, gone[job])}
            self._guessed |= {job: _last_words(gone[job]) for job in open_ if job not in self._accounted}
        fates = {job: self._accounted.get(job) or self._guessed.get(job) for job in gone}
        return {job: fate for job, fate in fates.items() if fate is not None}


def _is_of(fate: Fate, run: RunDir) -> bool:
    """Whether what accounting says is about the run's own job: ids may come again."""
    submission = run.submission()
    return not fate.name or submission is None or fate.name == JOB_NAME + submission.array


def tail(path: Path, size: int = TAIL_BYTES) -> str:
    """The last bytes of a file, as text."""
    with open(path, "rb", opener=regular) as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode("utf-8", errors="replace")


def _last_words(run: RunDir) -> Fate | None:
    """What the output of a job's last attempt says about its end."""
    path = run.newest_log()
    if path is None:
        return None
    text = tail(path)
    end = end_of(text)
    if end is not None:
        return Fate(end.cause, end.line)
    line = last_line(text)
    return Fate("", f"its output ends with: {line}") if line else None
