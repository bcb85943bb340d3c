"""Where runs stand: their files, the processes of this host, squeue and sacct are asked, and `judge` concludes.

The one way to a verdict, for `status` as for whoever submits, cancels or reports.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.judge import judge_all
from hpcseg.runs.records import read_array
from hpcseg.runs.rundir import RunDir
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
    """Where runs stand; squeue is asked once, and only if one of them was submitted to Slurm.

    Args:
        runs: ancestors first.
        needs: ancestors by run.
        ends: ask sacct, once at most, about jobs that are gone without a word.
        attempts: read what is known of each attempt as well.
    """
    by_id = {run.id: run for run in runs}
    evidence = _read_evidence(by_id.values(), attempts)
    queue = read_queue() if any(found.on_slurm for found in evidence.values()) else NOT_ASKED
    now = time.time()
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


def _read_evidence(runs: Iterable[RunDir], attempts: bool) -> dict[str, Evidence]:
    """Evidence by run: each directory is listed once, each array's record read once."""
    read = functools.cache(read_array)
    return {run.id: run.evidence(read, attempts=attempts) for run in runs}
