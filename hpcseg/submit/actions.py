"""Stopping runs, and freeing failed ones."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpcseg.errors import BadInput, SchedulerError
from hpcseg.heartbeat import Heartbeat
from hpcseg.owners import require_own_ways
from hpcseg.paths import sweep_folder
from hpcseg.runs.applied import applied_sweeps, mark_cancelled, read_sweep_record
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import OPEN, Evidence, Verdict
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.selection import select_runs
from hpcseg.runs.states import read_states
from hpcseg.slurm.commands import cancel_jobs
from hpcseg.slurm.queue import read_queue
from hpcseg.text import counted, listed, standing

CANCEL_WAIT_S = 10.0
_ENDING = {"COMPLETING", "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL"}


def cancel(runs_root: Path, pattern: str, note: Callable[[str], None] = lambda words: None) -> list[str]:
    """Ask the matching runs that may still go on to save and stop; returns their ids.

    A run that waits is not begun any more, not even by a job that shows up in the queue later. The same sweep can be
    applied again at any time. What another applied sweep has as well is left when a sweep is cancelled, and cancelled
    when the run itself is named; `note` hears of either, and where there is nothing
    to cancel how the runs stand.

    Raises:
        BadInput: no run matches, a process is on another host, or others may write where the runs are.
        SchedulerError: scancel failed, or squeue does not say which jobs are the runs'.
    """
    runs = select_runs(runs_root, pattern)
    is_sweep = pattern in applied_sweeps(runs_root)
    needed = _needed_by_others(runs_root, pattern if is_sweep else "")
    evidence, verdicts, queue = read_states(runs)
    states = Counter[str](verdict.state for verdict in verdicts.values())
    chosen = [run for run in runs if _may_go_on(evidence[run.id], verdicts[run.id])]
    swept = [sweep_folder(runs_root, pattern)] if is_sweep else []
    require_own_ways(runs_root, [*swept, *(run.path for run in chosen)])
    if not chosen:
        note(f"nothing is queued or running: {standing(states)}")
    if is_sweep:
        mark_cancelled(runs_root, pattern)
        _name_shared([run.id for run in chosen if run.id in needed], needed, "left", note)
        chosen = [run for run in chosen if run.id not in needed]
    else:
        _name_shared([run.id for run in chosen if run.id in needed], needed, "cancelled", note)
    jobs: list[str] = []
    unsure: list[str] = []
    elsewhere: list[str] = []
    for run in chosen:
        submission, verdict = evidence[run.id].submission, verdicts[run.id]
        assert submission is not None
        run.change_submission(_cancelled)
        if submission.backend == "slurm" and verdict.job:
            (jobs if verdict.job in queue.jobs else unsure).append(verdict.job)
            continue
        # The job may have begun since: it writes its heartbeat before it looks whether it was cancelled.
        heartbeat = run.heartbeat() or evidence[run.id].heartbeat
        if (
            heartbeat is not None
            and heartbeat.state == "running"
            and (submission.backend != "slurm" or heartbeat.alive)
        ):
            elsewhere += _terminate(run, heartbeat)
    cancel_jobs(jobs)
    _confirm_cancelled(jobs)
    if elsewhere:
        raise BadInput(f"{listed(elsewhere)}; cancel there what runs there, all else is cancelled")
    if unsure:
        why = verdicts[next(run.id for run in chosen if verdicts[run.id].job == unsure[0])].why
        raise SchedulerError(
            f"{counted(len(unsure), 'job')} may be in the queue and were not cancelled, as it is not known which are "
            f"ours ({why}); they begin no more: cancel again when squeue answers"
        )
    return [run.id for run in chosen]


def _cancelled(known: Submission) -> Submission:
    return known.model_copy(update={"cancelled": time.time()})


def _may_go_on(evidence: Evidence, verdict: Verdict) -> bool:
    """Whether there is something to cancel: whatever is open, and a job that waits in vain."""
    waits_in_vain = verdict.state == "blocked" and verdict.job != ""
    return evidence.submission is not None and (verdict.state in OPEN or waits_in_vain)


def _needed_by_others(runs_root: Path, sweep: str) -> dict[str, list[str]]:
    """Runs of applied sweeps that nobody cancelled, each with those sweeps; all but the sweep of that name."""
    found: dict[str, list[str]] = {}
    for name in applied_sweeps(runs_root):
        record = read_sweep_record(runs_root, name) if name != sweep else {}
        if not record.get("cancelled"):
            for run_id in (one for ids in record.get("stages", {}).values() for one in ids):
                found.setdefault(run_id, []).append(name)
    return found


def _name_shared(
    ids: Sequence[str], needed: Mapping[str, Sequence[str]], what: str, note: Callable[[str], None]
) -> None:
    if ids:
        sweeps = sorted({name for run_id in ids for name in needed[run_id]})
        few = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        tail = "; name a run to cancel it all the same" if what == "left" else ""
        note(f"{what}, and part of {', '.join(sweeps)}: {few}{tail}")


def _confirm_cancelled(jobs: Sequence[str]) -> None:
    """Look whether scancel did what it was asked for.

    Raises:
        SchedulerError: jobs are in the queue as before.
    """
    until = time.monotonic() + CANCEL_WAIT_S
    while jobs:
        queue = read_queue()
        left = [job for job in jobs if job in queue.jobs and queue.jobs[job].state not in _ENDING]
        if not left:
            return
        if time.monotonic() > until:
            raise SchedulerError(
                f"scancel said nothing, and {counted(len(left), 'job')} of {len(jobs)} are in the queue as before "
                f"({', '.join(left[:3])}): cancel again"
            )
        time.sleep(0.5)


def retry(
    runs_root: Path, pattern: str, cause: str = "", note: Callable[[str], None] = lambda words: None
) -> list[str]:
    """Make the matching failed runs count as stopped, with whole budgets; returns their ids.

    Nothing is removed: `error.json` becomes `error.N.json`. Applying their sweep submits them. A run of which only
    another host knows is freed as well. `cause` leaves the runs that ended by it (memory, python, node, ...). Where
    there is nothing to clear, `note` hears how the runs stand and what to do.

    Raises:
        BadInput: no run matches, or others may write where the runs are.
    """
    runs = select_runs(runs_root, pattern)
    require_own_ways(runs_root, [run.path for run in runs])
    evidence, verdicts, _ = read_states(runs, ends=Ends() if cause else None, attempts=bool(cause))
    freed = []
    for run in runs:
        verdict, submission = verdicts[run.id], evidence[run.id].submission
        if cause and verdict.cause != cause:
            continue
        if verdict.state == "failed" and run.clear_failure():
            freed.append(run.id)
        elif verdict.state == "unknown" and submission is not None and submission.backend == "local":
            run.change_submission(_cancelled)
            freed.append(run.id)
        elif verdict.state == "lost":  # is free already
            freed.append(run.id)
    if not freed:
        note(_nothing_to_clear(verdicts, cause))
    return freed


def _nothing_to_clear(verdicts: Mapping[str, Verdict], cause: str) -> str:
    """Why no failure was cleared, and what to do instead. Pure."""
    states = Counter[str](verdict.state for verdict in verdicts.values())
    causes = Counter(verdict.cause for verdict in verdicts.values() if verdict.state == "failed")
    if cause and causes:
        ended = ", ".join(f"{name or 'unknown'} ({count})" for name, count in causes.most_common())
        return f"no run ended by {cause!r}; those that failed ended by: {ended}; leave out --cause for all of them"
    if states.keys() <= {"done"}:
        return f"no run has failed: {standing(states)}; hpcseg collect makes tables of them"
    if states.keys() <= {"done", "queued", "running", "requeued"}:
        return f"no run has failed: {standing(states)}; hpcseg status --watch shows how they go on"
    return f"no run has failed: {standing(states)}; the same hpcseg sweep goes on with what is left"


def _terminate(run: RunDir, heartbeat: Heartbeat) -> list[str]:
    """Ask a process to save and stop; says where it runs if that is another host."""
    if heartbeat.host != socket.gethostname():
        return [f"{run.id} runs on {heartbeat.host}"]
    if heartbeat.alive:
        os.kill(heartbeat.pid, signal.SIGTERM)
    return []
