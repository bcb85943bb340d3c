"""Everything that is known about one run: what `hpcseg status --why RUN` and `hpcseg inspect RUN` show."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcseg.paths import STAGES, TRAINING_FILE
from hpcseg.runs.applied import applied_sweeps, read_sweep_record
from hpcseg.runs.ends import Ends, tail
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.selection import select_run
from hpcseg.runs.states import States, read_states
from hpcseg.runs.status import gpu_seconds_of
from hpcseg.seals import read_sealed
from hpcseg.slurm.queue import Queue
from hpcseg.spec import PackSpec
from hpcseg.text import word

LOG_LINES = 12


def explain(runs_root: Path, pattern: str) -> dict[str, Any]:
    """The state of the one run that `pattern` means, and all evidence for it.

    squeue is asked once, sacct at most once.

    Raises:
        BadInput: no run matches, or more than one.
    """
    run = select_run(runs_root, pattern)
    needs, file = _in_sweeps(run.runs_root, run.id)
    chain = _ancestors(run.runs_root, run.id, needs)
    ends = Ends()
    found = read_states([*chain, run], needs, ends, attempts=True)
    above = {one.id: found.verdicts[one.id] for one in chain}
    return _known(run, found, ends, file) | {
        "needs": [{"id": name, "state": verdict.state, "why": verdict.why} for name, verdict in above.items()]
    }


def _known(run: RunDir, found: States, ends: Ends, file: str) -> dict[str, Any]:
    """What is known of `run` now; `file` is the sweep file that it comes from."""
    evidence, verdict, now = found.evidence[run.id], found.verdicts[run.id], time.time()
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


def inspect_run(path: Path) -> dict[str, Any]:
    """What a run directory holds and what is wrong with it, for `hpcseg inspect`."""
    run = RunDir(path.resolve())
    spec = run.spec()
    found = read_states([run])
    evidence, verdict = found.evidence[run.id], found.verdicts[run.id]
    known: dict[str, Any] = {"kind": "run", "id": run.id, "stage": run.stage}
    known |= {"state": verdict.state, "why": verdict.why}
    if isinstance(spec, PackSpec):
        known |= {"dataset": spec.dataset, "scans": len(spec.cases), "spacing_zyx": list(spec.spacing_zyx)}
    else:
        config = spec.config
        known |= {"strategy": config.strategy, "labelled": config.labelled, "fold": config.fold, "seed": config.seed}
    if evidence.submission is not None:
        known["submission"] = evidence.submission.model_dump(mode="json", exclude_none=True)
    training = read_sealed(run.path / TRAINING_FILE, optional=True)
    if training is not None:
        known["reading"] = training.get("reading", [])
    broken = verdict.state in {"failed", "lost"} or evidence.damage
    return known | {"problems": [f"{run.id}: {verdict.why}"] if broken else []}


def next_step(run_id: str, verdict: Verdict, file: str) -> str:
    """The command that is of use now. Pure."""
    sweep = f"hpcseg sweep {word(file)}" if file else "hpcseg sweep FILE"
    steps = {
        "new": f"{sweep} submits it",
        "queued": f"scontrol show job {verdict.job}" if verdict.job else "hpcseg status --watch",
        "held": f"scontrol release {verdict.job}",
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


def _slurm(run: RunDir, evidence: Evidence, verdict: Verdict, queue: Queue, ends: Ends) -> dict[str, dict[str, Any]]:
    """What squeue and sacct say about the run's job."""
    if not evidence.on_slurm:
        return {}
    if queue.error:
        return {"queue": {"error": queue.error}}
    entry = queue.jobs.get(verdict.job)
    if entry is not None:
        return {"queue": {"job": verdict.job, **entry._asdict()}}
    found: dict[str, dict[str, Any]] = {"queue": {"job": verdict.job, "state": "not in the queue"}}
    fate = ends.of({verdict.job: run}).get(verdict.job) if verdict.job else None
    if fate is not None:
        found["accounting"] = fate._asdict()
    return found


def _in_sweeps(runs_root: Path, run_id: str) -> tuple[dict[str, list[str]], str]:
    """What the runs of a sweep that has the run need, and that sweep's file."""
    for name in applied_sweeps(runs_root):
        record = read_sweep_record(runs_root, name)
        if any(run_id in ids for ids in record.get("stages", {}).values()):
            return record["needs"], str(record.get("file", ""))
    return {}, ""


def _ancestors(runs_root: Path, run_id: str, needs: Mapping[str, Sequence[str]]) -> list[RunDir]:
    """Everything that a run needs and that is there, ancestors first."""
    found: dict[str, RunDir] = {}
    for name in needs.get(run_id, ()):
        itself = (RunDir.of(runs_root, stage, name) for stage in STAGES)
        found |= {run.id: run for run in (*_ancestors(runs_root, name, needs), *itself) if run.path.is_dir()}
    return list(found.values())


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
