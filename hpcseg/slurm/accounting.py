"""Slurm's accounting: what became of jobs that left the queue; one sacct call for all of them.

Many clusters keep none, and it may be down: then nothing is known, which is no error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hpcseg.slurm.calls import CallError, call

TIMEOUT_S = 15.0
_FIELDS = "JobID,State,ExitCode,NodeList,End,JobName"
_CAUSES = {
    "OUT_OF_MEMORY": "memory",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "REQUEUED": "requeued",
}
_OPEN = {"PENDING", "RUNNING", "SUSPENDED", "RESIZING", "COMPLETING", "CONFIGURING", "STAGE_OUT"}


class Fate(NamedTuple):
    """What Slurm's accounting, or a job's own output, says about the end of a job that left the queue."""

    cause: str  # as in `attempts.Cause`; "": not known
    words: str  # one line
    node: str = ""
    name: str = ""  # of the job; "" where that is not said


def read_accounts(jobs: Iterable[str]) -> dict[str, Fate]:
    """Ends of those of `jobs` (ids, `array_task` for arrays) that accounting knows to have ended; {} without it."""
    wanted = set(jobs)
    arrays = sorted({job.partition("_")[0] for job in wanted})  # a few arrays, however many tasks
    options = ("--noheader", "--parsable2", f"--format={_FIELDS}", f"--jobs={','.join(arrays)}")
    try:
        text = call("sacct", *options, timeout_s=TIMEOUT_S)
    except CallError:
        return {}
    return {job: fate for job, fate in parse_accounts(text).items() if job in wanted}


def parse_accounts(text: str) -> dict[str, Fate]:
    """Ends by job from lines of `id|state|exit code|nodes|end|name`, steps included; jobs without an end are left out.

    A job that was begun again has one line for its last start. Pure.
    """
    found: dict[str, Fate] = {}
    for line in text.splitlines():
        fields = line.split("|", 5)
        if len(fields) < 6:
            continue
        number, state, code, nodes, ended, name = fields
        job, _, step = number.partition(".")
        state = state.partition(" ")[0]  # "CANCELLED by 1000"
        if state in _OPEN:
            found.pop(job, None)
        elif not step:
            node = "" if nodes == "None assigned" else nodes
            found[job] = Fate(_cause(state, code), _describe(state, code, node, ended), node, name)
        elif state == "OUT_OF_MEMORY" and job in found:  # which the job itself does not say
            found[job] = found[job]._replace(cause="memory", words=f"OUT_OF_MEMORY, {found[job].words}")
    return found


def _cause(state: str, code: str) -> str:
    status, _, number = code.partition(":")
    if number == "125":  # how Slurm marks the cgroup's kill
        return "memory"
    if state == "FAILED" and "9" in {status, number}:
        return "killed"
    return _CAUSES.get(state, "")


def _describe(state: str, code: str, node: str, ended: str) -> str:
    status, _, number = code.partition(":")
    text = state
    if number not in {"", "0"}:
        text += f" by signal {number}"
    elif status not in {"", "0"}:
        text += f" with exit code {status}"
    if node:
        text += f" on {node}"
    return f"{text}, {ended.replace('T', ' ')}" if ended[:1].isdigit() else text
