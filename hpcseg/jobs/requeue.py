"""Handing a job back to Slurm's queue, from inside the job: the one place that does so."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

TRIES_S = 8.0  # a job that was told to end has some seconds left; KillWait is 30 s where nobody changed it
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Requeued:
    """How it went: whether the job is in the queue again, and in a line what was said."""

    ok: bool
    how: str


def requeue(task: str, memory_mb: int | None = None, exclude: Sequence[str] = ()) -> Requeued:
    """Put the job `task` ("12_3": array and index) back into the queue, if asked with more memory or without nodes.

    Slurm takes changes only of jobs that wait, so the job is requeued first; it begins to end at once.
    """
    until = time.monotonic() + TRIES_S
    error = _tried(["scontrol", "requeue", task], until)
    if error:
        return Requeued(False, f"scontrol requeue {task}: {error}")
    said = ["requeued"]
    if memory_mb is not None:
        error = _tried(["scontrol", "update", f"JobId={task}", f"MinMemoryNode={memory_mb}"], until)
        said.append(f"could not ask for {memory_mb} MB: {error}" if error else f"asks for {memory_mb} MB")
    if exclude:
        error = _tried(["scontrol", "update", f"JobId={task}", f"ExcNodeList={','.join(exclude)}"], until)
        names = ", ".join(exclude)
        said.append(f"could not do without {names}: {error}" if error else f"without {names}")
    return Requeued(True, ", ".join(said))


def _tried(command: list[str], until: float) -> str:
    """Call until it succeeds or the time is up; "" or what Slurm said last."""
    while True:
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            if answer.returncode == 0:
                return ""
            error = (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"
        except subprocess.TimeoutExpired:
            error = f"no answer in {TIMEOUT_S:.0f} s"
        except OSError as failed:
            return str(failed)
        if time.monotonic() > until:
            return error.splitlines()[-1]
        time.sleep(0.2)
