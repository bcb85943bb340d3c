"""Slurm's queue: one squeue call however many runs; no answer is an answer of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

TIMEOUT_S = 30
# A separator without a width keeps squeue from cutting fields. `-o` has no count of restarts, and `--array` loses the
# last task of a range with a step (1-99:2): tasks come as Slurm holds them, and are taken apart here.
_COLUMNS = ("JobArrayID", "State", "RestartCnt", "NodeList", "StartTime", "Reason", "Name")
_WHOLE = {"SLURM_BITSTR_LEN": "0"}  # or squeue cuts lists of tasks
_JOB = re.compile(r"(\d+)(?:_(?:(\d+)|\[([\d,:\-]+)(?:%\d+)?\]))?(?:\+\d+)?")


class QueueEntry(NamedTuple):
    """A job as Slurm's queue shows it."""

    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str = ""  # why it waits
    name: str = ""
    restarts: int = 0  # how often it was requeued
    node: str = ""
    start: str = ""  # when it began, or is expected to: 2026-05-04T16:30:00

    @property
    def began(self) -> float:
        """Unix time of its last start; 0 where that is not known."""
        try:
            return datetime.fromisoformat(self.start).timestamp()
        except ValueError:
            return 0.0


@dataclass(frozen=True)
class Queue:
    """One answer of squeue: jobs by id (`array_task`); `error` says why there is none."""

    jobs: Mapping[str, QueueEntry]
    error: str = ""

    def named(self, name: str) -> dict[int, str]:
        """Jobs of the array of that name, by task; of the array submitted last where several have it."""
        return self._by_name.get(name, {})

    @cached_property
    def _by_name(self) -> dict[str, dict[int, str]]:
        found: dict[str, dict[int, str]] = {}
        newest: dict[str, int] = {}
        for job, entry in self.jobs.items():
            array, _, task = job.partition("_")
            if entry.name and task.isdigit():
                if newest.get(entry.name, -1) < int(array):
                    newest[entry.name], found[entry.name] = int(array), {}
                if newest[entry.name] == int(array):
                    found[entry.name][int(task)] = job
        return found


def read_queue() -> Queue:
    """All of the user's jobs that Slurm still knows as waiting or running, by id (`array_task` for arrays)."""
    command = ["squeue", "--me", "--noheader", "--Format=" + ",".join(f"{name}:|" for name in _COLUMNS)]
    try:
        answer = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, check=False, env={**os.environ, **_WHOLE}
        )
    except FileNotFoundError:
        return Queue({}, "squeue is not installed here")
    except OSError as error:
        return Queue({}, f"squeue cannot be run ({error.strerror})")
    except subprocess.TimeoutExpired:
        return Queue({}, f"squeue did not answer in {TIMEOUT_S} s")
    if answer.returncode:
        lines = answer.stderr.decode(errors="replace").strip().splitlines()
        return Queue({}, lines[-1] if lines else f"squeue failed with exit code {answer.returncode}")
    text = answer.stdout.decode(errors="replace")
    jobs = parse_queue(text)
    return Queue(jobs, "" if jobs or not text.strip() else f"squeue said what cannot be read: {text.split()[0]}")


def parse_queue(text: str) -> dict[str, QueueEntry]:
    """Entries by job from lines `id|state|restarts|nodes|start|reason|name|`; tasks of one array may share a line.

    Lines of another kind (the rest of a name with a line break) are left out. Pure.
    """
    jobs = {}
    for line in text.split("\n"):
        fields = line.split("|", len(_COLUMNS) - 1)
        found = _JOB.fullmatch(fields[0])
        if len(fields) < len(_COLUMNS) or found is None:
            continue
        job, state, restarts, node, start, reason, name = fields
        entry = QueueEntry(
            state, reason, name.removesuffix("|"), int(restarts) if restarts.isdigit() else 0, node, start
        )
        if found[3] is None:
            jobs[job] = entry
        else:
            jobs.update(dict.fromkeys((f"{found[1]}_{task}" for task in tasks_of(found[3])), entry))
    return jobs


def tasks_of(expression: str) -> list[int]:
    """Tasks of an array from Slurm's expression for them: 0,3-5,10-20:5. Pure."""
    tasks: list[int] = []
    for part in expression.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        tasks += range(int(first), int(last or first) + 1, int(step or 1))
    return tasks


def expression_of(tasks: Iterable[int]) -> str:
    """Slurm's expression for tasks of an array: 0,3-5. Pure."""
    spans: list[list[int]] = []
    for task in sorted(tasks):
        if spans and task == spans[-1][1] + 1:
            spans[-1][1] = task
        else:
            spans.append([task, task])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def slurm_available() -> bool:
    """Whether sbatch is here and a controller answers."""
    if shutil.which("sbatch") is None or shutil.which("scontrol") is None:
        return False
    try:
        answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "UP" in answer.stdout
