"""Everything that is known about one run: what `hpcseg status --why RUN` shows."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcseg.runs.applied import applied_sweeps, read_sweep_record
from hpcseg.runs.ends import Ends, tail
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.lines import gpu_seconds_of
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import Findings, look, select_run
from hpcseg.slurm.queue import Queue

LOG_LINES = 12


def explain(runs_root: Path, pattern: str) -> dict[str, Any]:
    """The state of the one run that `pattern` means, and all evidence for it.

    squeue is asked once, sacct at most once.

    Raises:
        BadInput: no run matches, or more than one.
    """
    run = select_run(runs_root, pattern)
    needs, file = _in_sweeps(runs_root, run.id)
    chain = [RunDir.of(runs_root, stage, name) for name, stage in _ancestors(runs_root, run.id, needs).items()]
    ends = Ends()
    found = look([*chain, run], needs, ends, attempts=True)
    return report(run, found, ends, file, time.time()) | {
        "needs": [
            {"id": one.id, "state": found.verdicts[one.id].state, "why": found.verdicts[one.id].why} for one in chain
        ]
    }


def report(run: RunDir, found: Findings, ends: Ends, file: str, now: float) -> dict[str, Any]:
    """What is known of `run` at Unix time `now`; `file` is the sweep file that it comes from."""
    evidence, verdict = found.evidence[run.id], found.verdicts[run.id]
    heartbeat, failure = evidence.heartbeat, evidence.failure
    submission = run.submission() if evidence.done else evidence.submission
    used_s, lost_s = gpu_seconds_of(evidence, verdict, now)
    value: dict[str, Any] = {
        "id": run.id,
        "stage": run.stage,
        "state": verdict.state,
        "why": verdict.why,
        "cause": verdict.cause,
        "next": next_step(run.id, verdict, file),
        "path": str(run.path),
        "files": _files(run.path, now),
        "gpu_hours": round(used_s / 3600, 4),
        "gpu_hours_lost": round(lost_s / 3600, 4),
        "attempts": [dict(vars(attempt)) for attempt in evidence.attempts],
        "log": _log(run),
    }
    if submission is not None:
        value["submission"] = submission.model_dump(mode="json", exclude_none=True, exclude={"pool"})
    if evidence.array is not None:
        value["asked"] = evidence.array.asked.model_dump(mode="json")
    if heartbeat is not None:
        value["heartbeat"] = dict(vars(heartbeat)) | {"age_s": round(now - heartbeat.time, 1)}
    if failure is not None:
        value["failure"] = {"cause": failure.cause, "message": failure.message, "time": failure.time}
    return value | _slurm(run, evidence, verdict, found.queue, ends)


def next_step(run_id: str, verdict: Verdict, file: str) -> str:
    """The command that is of use now. Pure."""
    sweep = f"hpcseg sweep {shlex.quote(file)}" if file else "hpcseg sweep FILE"
    steps = {
        "new": f"{sweep} submits it",
        "queued": f"scontrol show job {verdict.job}" if verdict.job else "hpcseg status --watch",
        "running": f"hpcseg logs {run_id} -f",
        "stalled": f"hpcseg logs {run_id}; hpcseg cancel {run_id} and then {sweep} begin it anew from its checkpoint",
        "requeued": f"none: it goes on by itself; hpcseg logs {run_id} -f",
        "stopped": f"{sweep} goes on with it",
        "done": "hpcseg collect",
        "failed": f"hpcseg logs {run_id}; {sweep} submits it again once the cause is removed",
        "lost": f"{sweep} submits it again",
        "blocked": f"hpcseg status --why {verdict.why.partition(':')[0]}; {sweep} once that is solved",
        "unknown": "the same command again a little later",
    }
    return steps[verdict.state]


def _slurm(
    run: RunDir, evidence: Evidence, verdict: Verdict, queue: Queue | None, ends: Ends
) -> dict[str, dict[str, Any]]:
    """What squeue and sacct say about the run's job."""
    if queue is None or evidence.submission is None or evidence.submission.backend != "slurm":
        return {}
    if queue.error:
        return {"queue": {"error": queue.error}}
    entry = queue.jobs.get(verdict.job)
    if entry is not None:
        return {"queue": {"job": verdict.job, **entry._asdict()}}
    told: dict[str, dict[str, Any]] = {"queue": {"job": verdict.job, "state": "not in the queue"}}
    fate = ends.of({verdict.job: run}).get(verdict.job) if verdict.job else None
    if fate is not None:
        told["accounting"] = fate._asdict()
    return told


def _in_sweeps(runs_root: Path, run_id: str) -> tuple[dict[str, list[str]], str]:
    """What the runs of a sweep that has the run need, and that sweep's file."""
    for name in applied_sweeps(runs_root):
        record = read_sweep_record(runs_root, name)
        if any(run_id in ids for ids in record["stages"].values()):
            return record["needs"], record["file"]
    return {}, ""


def _ancestors(runs_root: Path, run_id: str, needs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Stage of everything that a run needs, ancestors first."""
    found: dict[str, str] = {}
    for name in needs.get(run_id, ()):
        found |= _ancestors(runs_root, name, needs)
        stages = [path.name for path in runs_root.iterdir() if (path / name).is_dir()] if runs_root.is_dir() else []
        found |= {name: stages[0]} if stages else {}
    return found


def _files(folder: Path, now: float) -> dict[str, dict[str, float]]:
    """Size and age of the files in a run directory."""
    files = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and not path.name.startswith("."):
            known = path.stat()
            files[path.name] = {"bytes": known.st_size, "age_s": round(now - known.st_mtime, 1)}
    return files


def _log(run: RunDir) -> dict[str, Any]:
    path = run.newest_log()
    return {} if path is None else {"path": str(path), "lines": tail(path).splitlines()[-LOG_LINES:]}
