"""Nodes that failed lately, and what nodes there are.

<runs>/slurm/nodes.jsonl   {"node", "time", "why", "job"}: one line for each failure that a run has seen
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcseg.paths import ARRAYS_FOLDER, NODES_FILE
from hpcseg.seals import append_line, json_lines
from hpcseg.slurm.calls import CallError, call

REMEMBERED_S = 24 * 3600.0
_BAD = ("down", "drain", "fail", "unk", "maint", "boot", "power")


@dataclass(frozen=True)
class Node:
    """A node as sinfo shows it."""

    name: str
    state: str
    memory_mb: int

    @property
    def works(self) -> bool:
        """Whether it takes jobs, now or when others have ended."""
        return not any(word in self.state.lower() for word in _BAD) and not self.state.endswith("*")


def remember_bad(runs_root: Path, node: str, why: str, job: str, now: float) -> None:
    """Note that a node failed under a job."""
    path = runs_root / ARRAYS_FOLDER / NODES_FILE
    with contextlib.suppress(OSError):  # a full disk, for instance; the run matters more
        path.parent.mkdir(exist_ok=True)  # not the folder of all runs, which may have been renamed
        append_line(path, {"node": node, "time": round(now, 1), "why": why, "job": job})


def recent_bad(runs_root: Path, now: float) -> tuple[str, ...]:
    """Nodes that failed within the last 24 hours, by name."""
    found = set()
    with contextlib.suppress(OSError):
        for value in json_lines(runs_root / ARRAYS_FOLDER / NODES_FILE):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if now - float(value["time"]) < REMEMBERED_S:
                    found.add(str(value["node"]))
    return tuple(sorted(found))


def to_exclude(bad: Sequence[str], nodes: Sequence[Node], needed: int = 1) -> tuple[str, ...]:
    """Which of the `bad` nodes a job can do without: all or, where fewer than `needed` others work, none. Pure."""
    names = {node.name for node in nodes}
    others = sum(node.works and node.name not in bad for node in nodes)
    return tuple(name for name in bad if name in names) if others >= needed else ()


def read_nodes(partition: str = "") -> list[Node]:
    """The nodes of a partition ("": of all); none where sinfo does not answer."""
    chosen = (f"--partition={partition}",) if partition else ()
    try:
        return parse_nodes(call("sinfo", "--Node", "--noheader", "--format=%N|%T|%m", *chosen))
    except CallError:
        return []


def largest_mb(partition: str = "") -> int:
    """Memory of the largest node of a partition in MB; 0 where sinfo does not answer."""
    return max((node.memory_mb for node in read_nodes(partition)), default=0)


def parse_nodes(text: str) -> list[Node]:
    """Nodes from lines of `name|state|memory in MB`; one that is in several partitions once. Pure."""
    found: dict[str, Node] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 3 and fields[2].rstrip("+").isdigit():
            found[fields[0]] = Node(fields[0], fields[1], int(fields[2].rstrip("+")))
    return list(found.values())
