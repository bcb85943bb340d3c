"""How jobs ended that left the queue without a word: what Slurm's accounting says, else their own output."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpcseg.runs.causes import end_of, last_line
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.accounting import Fate, read_accounts

TAIL_BYTES = 16384
ASKED_AGAIN_S = 30.0  # accounting may be late, or there may be none


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
            self._accounted |= read_accounts(open_)
            self._guessed |= {job: _last_words(gone[job]) for job in open_ if job not in self._accounted}
        fates = {job: self._accounted.get(job) or self._guessed.get(job) for job in gone}
        return {job: fate for job, fate in fates.items() if fate is not None}


def tail(path: Path, size: int = TAIL_BYTES) -> str:
    """The last bytes of a file, as text."""
    with path.open("rb") as file:
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
