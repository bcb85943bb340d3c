"""How Slurm's commands are called: one way to do it, and one way for it to fail."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from hpcseg.errors import SchedulerError

# What Slurm's commands read, or find in a job, begins so: SLURM_…, SLURMD_…, SBATCH_…, SQUEUE_…, SACCTMGR_…
_OF_SLURM = re.compile(
    r"(?:SLURM[A-Z]*|SBATCH|SQUEUE|SALLOC|SRUN|SCANCEL|SACCT|SACCTMGR|SINFO|SCONTROL|SPRIO|SSTAT|SSHARE|SREPORT|SBCAST"
    r"|SATTACH|SCRONTAB|STRIGGER|SDIAG)_"
)
_OF_THE_CLUSTER = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"})  # which Slurm, and the key to it
# Or squeue cuts lists of tasks, and writes times as its caller likes.
_MEANT = {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}

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
            [command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env=environment(),
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


def environment(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What Slurm's commands are given, and the jobs that they submit: the environment `own` without what is Slurm's.

    Filters and formats (SQUEUE_…), what would beat a profile (SBATCH_…) and the job that this process may run in
    (SLURM_…) are not for the calls of hpcseg; which cluster is meant is.
    """
    kept = {name: value for name, value in own.items() if name in _OF_THE_CLUSTER or not _OF_SLURM.match(name)}
    return kept | _MEANT


def ignored_wishes(own: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that sbatch would take as wishes for jobs, and that those of hpcseg do not see, sorted."""
    return sorted(name for name, value in own.items() if name.startswith("SBATCH_") and value)


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
