"""Slurm's commands: what is asked of them, what is sent to them, and what their refusals mean."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcseg.errors import SchedulerError
from hpcseg.slurm.queue import expression_of

SCANCEL_TIMEOUT_S = 120


JOBS_PER_CALL = 1000  # some 10 bytes each; a command line takes much more


_OVER = ("already completing or completed", "Invalid job id specified")


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Cancel Slurm jobs, in few calls; those that are over already are no error.

    Raises:
        SchedulerError: scancel failed, or did not answer.
    """
    for chunk in _chunks(compact(jobs)):
        try:
            answer = subprocess.run(
                ["scancel", *chunk], capture_output=True, text=True, check=False, timeout=SCANCEL_TIMEOUT_S
            )
        except OSError as error:
            raise SchedulerError(f"scancel cannot be run ({error.strerror}); {_remedy(chunk)}") from None
        except subprocess.TimeoutExpired:
            raise SchedulerError(f"scancel did not answer in {SCANCEL_TIMEOUT_S} s; {_remedy(chunk)}") from None
        lines = [line for line in answer.stderr.splitlines() if line and not any(words in line for words in _OVER)]
        if answer.returncode and lines:
            raise SchedulerError(f"scancel failed: {lines[-1]}; {_remedy(chunk)}")


def compact(jobs: Iterable[str]) -> list[str]:
    """The same jobs with tasks of one array in one: 7_1, 7_2, 7_3, 7_5 are 7_[1-3,5]. Pure."""
    tasks: dict[str, set[int]] = {}
    single: dict[str, None] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        if task.isdigit():
            tasks.setdefault(array, set()).add(int(task))
        else:
            single[job] = None
    return [*single, *(f"{array}_[{expression_of(those)}]" for array, those in tasks.items())]


def _chunks(jobs: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(jobs), JOBS_PER_CALL):
        yield list(jobs[start : start + JOBS_PER_CALL])


def _remedy(jobs: Sequence[str]) -> str:
    few = " ".join(jobs[:3]) + (" …" if len(jobs) > 3 else "")
    return f"the jobs {few} may still run: cancel again"


MAX_ARRAY_SIZE = 1001  # Slurm's own default


SBATCH_TIMEOUT_S = 60


# What sbatch says when it was not heard, or did not hear: the jobs may exist.
_NOT_HEARD = re.compile(r"timed out|contact|zero bytes|connect|communicat|transmi|protocol", re.IGNORECASE)


_SLURMS_OWN = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"}


@dataclass(frozen=True)
class Refusal:
    """Why sbatch gave no id: in its own words, and whether it is Slurm's answer or there was none."""

    words: str
    heard: bool


def max_array_size() -> int:
    """Largest array that this cluster takes; Slurm's default where it does not say.

    Raises:
        SchedulerError: scontrol does not answer.
    """
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SchedulerError(f"scontrol does not answer ({error}); is Slurm up? sinfo shows it") from None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    return int(found[1]) if found else MAX_ARRAY_SIZE


def sbatch(script: Path) -> str | Refusal:
    """Slurm's id of the job that sbatch makes of a script."""
    # What belongs to a job that hpcseg itself may run in is not for the new ones.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in _SLURMS_OWN}
    try:
        answer = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=SBATCH_TIMEOUT_S,
            env=kept,
        )
    except subprocess.TimeoutExpired as late:
        # Where no more jobs are allowed for now, sbatch says so and tries again and again.
        said = _words((late.stderr or b"").decode(errors="replace"))
        return Refusal(f"sbatch did not succeed in {SBATCH_TIMEOUT_S} s" + (f": {said}" if said else ""), heard=False)
    except OSError as error:
        return Refusal(f"sbatch cannot be run: {error.strerror}", heard=True)
    found = re.match(r"(\d+)", answer.stdout.strip())
    if answer.returncode == 0 and found:
        return found[1]
    words = _words(answer.stderr) or f"sbatch failed with exit code {answer.returncode}"
    return Refusal(words, heard=answer.returncode != 0 and not _NOT_HEARD.search(words))


def _words(text: str) -> str:
    """What sbatch says, in one line, each thing once."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
