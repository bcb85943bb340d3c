"""Slurm's queue: one squeue call however many runs; no answer is an answer of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hpcseg.slurm.calls import CallError, call, unix_time

# A separator without a width keeps squeue from cutting fields. `-o` has no count of restarts, and `--array` loses the
# last task of a range with a step (1-99:2): tasks come as Slurm holds them, and are taken apart here.
_COLUMNS = ("JobArrayID", "State", "RestartCnt", "NodeList", "StartTime", "Reason", "Name")
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
        return unix_time(self.start) or 0.0


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
    try:
        text = call("squeue", "--me", "--noheader", "--Format=" + ",".join(f"{name}:|" for name in _COLUMNS))
    except CallError as error:
        return Queue({}, str(error))
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
    """Tasks of an array from Slurm's expression for them. Pure.

    >>> tasks_of("0,3-5,10-20:5")
    [0, 3, 4, 5, 10, 15, 20]
    """
    tasks: list[int] = []
    for part in expression.split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        tasks += range(int(first), int(last or first) + 1, int(step or 1))
    return tasks


def expression_of(tasks: Iterable[int]) -> str:
    """Slurm's expression for tasks of an array. Pure.

    >>> expression_of([4, 0, 5, 3])
    '0,3-5'
    """
    spans: list[list[int]] = []
    for task in sorted(tasks):
        if spans and task == spans[-1][1] + 1:
            spans[-1][1] = task
        else:
            spans.append([task, task])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
