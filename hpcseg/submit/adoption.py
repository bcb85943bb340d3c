"""Arrays of which nobody heard whether Slurm took them: sbatch failed or timed out, or hpcseg died meanwhile. They are
looked for in the queue by name. What is there is adopted; what is not is given up, and may be submitted again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hpcseg.runs.judge import CONFIRMED_S
from hpcseg.runs.records import ArrayRecord, Process, write_array
from hpcseg.slurm.queue import Queue, read_queue

BETWEEN_S = 2.0  # a request that slurmctld had not got to is done by then


def adopt(records: Iterable[ArrayRecord], queue: Queue) -> list[ArrayRecord]:
    """Those of the unconfirmed arrays that are in the queue, with their ids. Pure."""
    found = []
    for record in records:
        tasks = queue.named(record.job_name) if record.unconfirmed else {}
        for job in tasks.values():
            found.append(record.model_copy(update={"job_id": job.partition("_")[0]}))
            break
    return found


def abandoned(record: ArrayRecord, now: float) -> bool:
    """Whether an unconfirmed array has nobody left who is about to confirm it. Pure but for asking after a process."""
    if not record.unconfirmed:
        return False
    if record.submitter == Process.this():
        return True
    alive = record.submitter.alive(record.host)
    return alive is False or (alive is None and now - record.submitted > CONFIRMED_S)


def adopt_or_give_up(
    runs_root: Path,
    records: Iterable[ArrayRecord],
    why: str = "hpcseg ended before Slurm had answered",
    *,
    sure: bool = False,
    patience_s: float = 60.0,
    ask: Callable[[], Queue] = read_queue,
) -> list[ArrayRecord]:
    """Adopt or give up arrays whose submitter is gone, and write that; hold the lock.

    Given up is what squeue twice did not show, for `why`; while squeue does not answer, arrays stay as they are.

    Args:
        runs_root: folder of all runs.
        records: arrays; those that are confirmed or being submitted are left alone.
        why: what `refused` of an array that does not exist will say.
        sure: Slurm itself refused, so that one look is enough.
        patience_s: how long a squeue that fails is asked again.
        ask: squeue.

    Returns:
        The arrays as they are now.
    """
    known = {record.tag: record for record in records}
    until = time.monotonic() + patience_s
    looks = 0
    while left := [record for record in known.values() if abandoned(record, time.time())]:
        queue = ask()
        if queue.error and time.monotonic() > until:
            break
        looks += not queue.error
        changed = [] if queue.error else adopt(left, queue)
        if looks >= (1 if sure else 2):
            here = {record.tag for record in changed}
            changed += [r.model_copy(update={"refused": why}) for r in left if r.tag not in here]
        for record in changed:
            write_array(runs_root, record)
            known[record.tag] = record
        if len(changed) < len(left):
            time.sleep(BETWEEN_S)
    return list(known.values())
