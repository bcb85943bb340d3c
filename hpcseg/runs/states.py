"""Where runs stand: their files, the processes of this host, squeue and sacct are asked, and `judge` concludes.

The one way to a verdict, for `status` as for whoever submits, cancels or reports.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from hpcseg.files import is_file
from hpcseg.paths import ARRAY_FILE, array_folder
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import Evidence, Moved, Verdict
from hpcseg.runs.judge import judge_all
from hpcseg.runs.records import read_array
from hpcseg.runs.rundir import Judged, RunDir
from hpcseg.slurm.calls import CallError
from hpcseg.slurm.commands import read_cluster
from hpcseg.slurm.queue import Queue, read_queue

NOT_ASKED = Queue({}, "squeue was not asked")


class States(NamedTuple):
    """Evidence and verdicts by run, and what squeue said."""

    evidence: dict[str, Evidence]
    verdicts: dict[str, Verdict]
    queue: Queue


def read_states(
    runs: Iterable[RunDir],
    needs: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ends: Ends | None = None,
    *,
    attempts: bool = False,
) -> States:
    """Where runs stand; squeue is asked once, and only if one of them was submitted to Slurm. Where it misses a job,
    scontrol is asked as well whose queue that is.

    Args:
        runs: ancestors first.
        needs: ancestors by run.
        ends: ask sacct, once at most, about jobs that are gone without a word.
        attempts: read what is known of each attempt as well.
    """
    by_id = {run.id: run for run in runs}
    evidence = _read_evidence(by_id.values(), attempts)
    queue = _ask_queue(evidence)
    now = time.time()
    verdicts = judge_all(evidence, needs, queue, now)
    if _is_missed(evidence, verdicts, queue):
        with contextlib.suppress(CallError):
            queue = replace(queue, cluster=read_cluster())
            verdicts = judge_all(evidence, needs, queue, now)
    # Files were read before the queue was asked: what ended in between is looked at again.
    doubtful = [run for run_id, run in by_id.items() if verdicts[run_id].state in {"lost", "stopped"}]
    again = _read_evidence(doubtful, attempts=True)
    if any(found != evidence[run_id] for run_id, found in again.items()):
        evidence |= again
        verdicts = judge_all(evidence, needs, queue, now)
    if ends is not None:
        lost = {run.id: verdicts[run.id] for run in doubtful if verdicts[run.id].state == "lost"}
        fates = ends.of({verdict.job: by_id[i] for i, verdict in lost.items() if verdict.job and not verdict.cause})
        if fates:
            verdicts = judge_all(evidence, needs, queue, now, fates)
    return States(evidence, verdicts, queue)


def _ask_queue(evidence: Mapping[str, Evidence]) -> Queue:
    """What squeue says of this user's jobs, and of those of others who submitted some of the runs."""
    if not any(found.on_slurm for found in evidence.values()):
        return NOT_ASKED
    users = {found.array.uid for found in evidence.values() if found.array is not None} - {None, os.geteuid()}
    return read_queue(uid for uid in users if uid is not None) if users else read_queue()


def _is_missed(evidence: Mapping[str, Evidence], verdicts: Mapping[str, Verdict], queue: Queue) -> bool:
    """Whether a job is missed that another cluster may have, or that may be hidden as another user's."""
    if queue.error:
        return False
    missed = (evidence[run_id] for run_id, one in verdicts.items() if one.state in {"lost", "stopped", "unknown"})
    arrays = (found.array for found in missed if found.on_slurm and found.array is not None)
    return any(array.cluster or array.uid not in {None, queue.uid} for array in arrays)


def _read_evidence(runs: Iterable[RunDir], attempts: bool) -> dict[str, Evidence]:
    """Evidence by run: each directory is listed once, each array's record read once."""
    read, moved, judged = functools.cache(read_array), functools.cache(_moved), Judged()
    found = {}
    for run in runs:
        one = run.evidence(read, attempts=attempts, judged=judged)
        if one.array is not None and one.array.root:
            one = replace(one, moved=moved(run.runs_root, one.array.root, one.array.tag))
        found[run.id] = one
    return found


def _moved(runs_root: Path, known: str, tag: str) -> Moved:
    """Whether the folder of all runs is another than the one that an array's jobs know."""
    there = Path(known)
    with contextlib.suppress(OSError, ValueError):  # ValueError: a null in the path
        if there.samefile(runs_root):
            return ""
    return "copied" if is_file(array_folder(there, tag) / ARRAY_FILE) else "renamed"
