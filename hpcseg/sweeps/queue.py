"""Slurm's queue: one squeue call however many runs; no answer is an answer of its own."""

from __future__ import annotations

import shutil
import subprocess

from hpcseg.sweeps.evidence import Queue, QueueEntry

TIMEOUT_S = 30


def read_queue() -> Queue:
    """All of the user's jobs that Slurm still knows as waiting or running, by id (`array_task` for arrays)."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        return Queue({}, "squeue is not installed here")
    except subprocess.TimeoutExpired:
        return Queue({}, f"squeue did not answer in {TIMEOUT_S} s")
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()
        return Queue({}, lines[-1] if lines else f"squeue failed with exit code {answer.returncode}")
    return Queue(parse_queue(answer.stdout))


def parse_queue(text: str) -> dict[str, QueueEntry]:
    """Lines of `id|state|reason`."""
    jobs = {}
    for line in text.splitlines():
        job, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if job:
            jobs[job] = QueueEntry(state, reason)
    return jobs


def slurm_available() -> bool:
    """Whether sbatch is here and a controller answers."""
    if shutil.which("sbatch") is None or shutil.which("scontrol") is None:
        return False
    try:
        answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "UP" in answer.stdout
