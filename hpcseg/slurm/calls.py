"""How Slurm's commands are called: one way to do it, and one way for it to fail."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime
from typing import Literal

from hpcseg.errors import SchedulerError

# Of a job's environment: where Slurm is and how to speak with it, which holds for the jobs that it submits as well.
_OF_THE_CLUSTER = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_JWT"}

Failure = Literal["absent", "silent", "refused", "unreadable"]


class CallError(SchedulerError):
    """One of Slurm's commands did not do what was asked; the message says why, in a line.

    Attributes:
        failure: "absent": it cannot be run; "silent": no answer in time; "refused": it ended with an error;
            "unreadable": it ended well, and its output is not what was asked for.
        lines: what it wrote to standard error, each line once.
    """

    def __init__(self, failure: Failure, message: str, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failure = failure
        self.lines = lines


def call(command: str, *arguments: str, timeout_s: float = 30.0) -> str:
    """Standard output of one of Slurm's commands.

    Raises:
        CallError: it cannot be run, did not end in time, or ended with an error.
    """
    try:
        answer = subprocess.run(
            [command, *arguments], capture_output=True, check=False, timeout=timeout_s, env=environment()
        )
    except FileNotFoundError:
        raise CallError("absent", f"{command} is not installed here") from None
    except OSError as error:
        raise CallError("absent", f"{command} cannot be run ({error.strerror})") from None
    except subprocess.TimeoutExpired as late:
        # Where no more jobs are allowed for now, sbatch says so and tries again and again.
        lines = _lines(command, late.stderr or b"")
        message = f"{command} did not answer in {timeout_s:g} s"
        if lines:
            message = f"{command} did not succeed in {timeout_s:g} s: {'; '.join(lines)}"
        raise CallError("silent", message, lines) from None
    if answer.returncode:
        lines = _lines(command, answer.stderr)
        message = "; ".join(lines) or f"{command} failed with exit code {answer.returncode}"
        raise CallError("refused", message, lines)
    return answer.stdout.decode(errors="replace")


def environment() -> dict[str, str]:
    """What Slurm's commands are given: this process' own environment without the job that it may run in.

    What belongs to that job is not for the ones that it submits.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in _OF_THE_CLUSTER}
    return own | {"SLURM_BITSTR_LEN": "0"}  # or squeue cuts lists of tasks


def unix_time(text: str) -> float | None:
    """Slurm's notation of local time as Unix seconds; None for "Unknown", "None" and the like."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _lines(command: str, stderr: bytes) -> tuple[str, ...]:
    lines = stderr.decode(errors="replace").splitlines()
    lines = [line.removeprefix(f"{command}: ").removeprefix("error: ").strip() for line in lines]
    return tuple(dict.fromkeys(line for line in lines if line))
