"""Slurm's queue: one squeue call however many runs; no answer is an answer of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hpcseg.slurm.calls import CallError, call, unix_time

# A separator without a width keeps squeue from cutting fields. `-o` has no count of restarts, and `--array` loses the
# last task of a range with a step (1-99:2): tasks come as Slurm holds them, and are taken apart here.
_COLUMNS = ("JobArrayID", "State", "RestartCnt", "NodeList", "StartTime", "Reason", "UserID", "Name")
_JOB = re.compile(r"(\d+)(?:_(?:(\d+)|\[([\d,:\-]+)(?:%\d+)?\]))?(?:\+\d+)?")


_HEADER = re.compile(r"(?:ARRAY_)?JOB_?ID", re.IGNORECASE)
_HELD_STATES = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_HELD_REASON = re.compile(r"held|hold", re.IGNORECASE)  # JobHeldAdmin, "launch failed requeued held", ...


class QueueEntry(NamedTuple):
    """A job as Slurm's queue shows it."""

    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str = ""  # why it waits
    name: str = ""
    restarts: int = 0  # how often it was requeued
    node: str = ""
    start: str = ""  # when it began, or is expected to: 2026-05-04T16:30:00
    uid: int | None = None  # of its user

    @property
    def held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.state in _HELD_STATES or (self.state == "PENDING" and _HELD_REASON.search(self.reason) is not None)

    @property
    def began(self) -> float:
        """Unix time of its last start; 0 where that is not known."""
        return unix_time(self.start) or 0.0


@dataclass(frozen=True)
class Cluster:
    """What Slurm says of itself: its name, the largest array, and whether jobs of other users are shown."""

    name: str
    max_array_size: int
    shows_others: bool


@dataclass(frozen=True)
class Queue:
    """One answer of squeue: jobs by id (`array_task`); `error` says why there is none.

    `uid` is who asked; `cluster` says whose answer it is, where that was asked; `silent` is a squeue that is there, and
    may answer when it is asked again.
    """

    jobs: Mapping[str, QueueEntry]
    error: str = ""
    silent: bool = False
    uid: int | None = None
    cluster: Cluster | None = None

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


def read_queue(users: Iterable[int] = ()) -> Queue:
    """All jobs of this user, and of `users` (by number), that Slurm still knows, by id (`array_task` for arrays)."""
    uid = os.geteuid()
    ids = ",".join(map(str, sorted({uid, *users})))
    try:
        text = call("squeue", f"--user={ids}", "--Format=" + ",".join(f"{name}:|" for name in _COLUMNS))
    except CallError as error:
        return Queue({}, str(error), silent=error.failure != "absent")
    lines = text.splitlines()
    if not any(_HEADER.match(line) and line.count("|") >= len(_COLUMNS) for line in lines):
        # An empty queue has its header all the same: this is no answer.
        said = f"what cannot be read: {lines[0].strip()[:60]}" if text.strip() else "nothing"
        return Queue({}, f"squeue said {said}", silent=True)
    if not text.endswith("\n"):
        return Queue({}, "squeue was cut off in its answer", silent=True)
    return Queue(parse_queue(text), uid=uid)


def parse_queue(text: str) -> dict[str, QueueEntry]:
    """Entries by job from lines `id|state|restarts|nodes|start|reason|user|name|`; tasks of one array may share a line.

    Lines of another kind (the rest of a name with a line break) are left out. Pure.
    """
    jobs = {}
    for line in text.split("\n"):
        fields = line.split("|", len(_COLUMNS) - 1)
        found = _JOB.fullmatch(fields[0])
        if len(fields) < len(_COLUMNS) or found is None:
            continue
        job, state, restarts, node, start, reason, user, name = fields
        entry = QueueEntry(
            state,
            reason,
            name.removesuffix("|"),
            int(restarts) if restarts.isdigit() else 0,
            node,
            start,
            int(user) if user.isdigit() else None,
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
