"""Where every run is, and why: evidence from the run directories, one squeue call, and what a run's ancestors say."""

from __future__ import annotations

import fnmatch
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput, SchedulerError
from hpcseg.files import read_json
from hpcseg.spec import PackSpec
from hpcseg.sweeps.evidence import Evidence, Queue, Verdict, judge
from hpcseg.sweeps.queue import read_queue
from hpcseg.sweeps.rundir import TRAINING_FILE, RunDir, find_runs
from hpcseg.training.control import Heartbeat

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class RunStatus:
    """One line of `hpcseg status`; numbers are those of the last heartbeat."""

    id: str
    stage: str
    state: str
    why: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    epoch: int = 0
    loss: float | None = None
    eta_s: float | None = None
    attempt: int = 0
    job: str = ""

    def as_json(self) -> dict[str, Any]:
        """The line as a JSON object."""
        return asdict(self)


def read_status(runs_root: Path, sweeps: Sequence[str] = ()) -> list[RunStatus]:
    """State of all runs of the applied sweeps (all of them by default), ancestors first.

    Raises:
        BadInput: no such sweep was applied here, or a record is damaged.
    """
    runs, needs = _runs_of(runs_root, sweeps)
    evidence = {run.id: run.evidence() for run in runs}
    verdicts = _judge(evidence, needs)
    return [_line(run, verdicts[run.id], evidence[run.id]) for run in runs]


def judge_all(runs: Iterable[RunDir], needs: Mapping[str, Sequence[str]]) -> dict[str, Verdict]:
    """Verdicts by id; squeue is asked once, and only if a Slurm job's state depends on it."""
    return _judge({run.id: run.evidence() for run in runs}, needs)


def reconcile(
    evidence: Mapping[str, Evidence], needs: Mapping[str, Sequence[str]], queue: Queue | None, now: float
) -> dict[str, Verdict]:
    """Verdict of every run from its own evidence and its ancestors' (ancestors come first). Pure.

    A run that was not begun is blocked when something that it needs failed or is blocked itself.
    """
    verdicts: dict[str, Verdict] = {}
    for run_id, found in evidence.items():
        verdict = judge(found, queue, now)
        failed = [
            name for name in needs.get(run_id, ()) if name in verdicts and verdicts[name].state in {"failed", "blocked"}
        ]
        if failed and verdict.state in {"new", "stopped", "lost", "queued"}:
            verdict = Verdict("blocked", f"{failed[0]}: {verdicts[failed[0]].why}")
        verdicts[run_id] = verdict
    return verdicts


def select_runs(runs_root: Path, pattern: str) -> list[RunDir]:
    """Runs whose id matches a shell pattern or starts with it, or that belong to the sweep of that name.

    Raises:
        BadInput: there is none.
    """
    if (runs_root / "sweeps" / pattern / SWEEP_FILE).exists():
        return _runs_of(runs_root, [pattern])[0]
    runs = [run for run in find_runs(runs_root) if fnmatch.fnmatchcase(run.id, pattern) or run.id.startswith(pattern)]
    if not runs:
        raise BadInput(f"no run or sweep in {runs_root} matches '{pattern}'; hpcseg status lists them")
    return runs


def newest_log(run: RunDir) -> Path:
    """The file with the output of the run's last attempt.

    Raises:
        BadInput: the run has not written any.
    """
    path = run.newest_log()
    if path is None:
        raise BadInput(f"{run.path}: no log yet; hpcseg status --why {run.id} says where it is")
    return path


def cancel(runs_root: Path, pattern: str) -> list[str]:
    """Ask the matching runs that are queued or running to save and stop; returns their ids.

    A run that waits in a local pool is not begun any more. The same sweep can be applied again at any time.

    Raises:
        BadInput: no run matches, or a process is on another host.
        SchedulerError: scancel failed.
    """
    runs = select_runs(runs_root, pattern)
    verdicts = judge_all(runs, {})
    cancelled, jobs = [], []
    for run in runs:
        submission, heartbeat = run.submission(), run.heartbeat()
        if verdicts[run.id].state not in {"queued", "running", "unknown"} or submission is None:
            continue
        run.write_submission(submission.model_copy(update={"cancelled": time.time()}))
        cancelled.append(run.id)
        job = run.evidence().job
        if submission.backend == "slurm" and job is not None:
            jobs.append(job)
        elif heartbeat is not None and heartbeat.state == "running":
            _terminate(run, heartbeat)
    if jobs:
        answer = subprocess.run(["scancel", *jobs], capture_output=True, text=True, check=False)
        if answer.returncode:
            raise SchedulerError(f"scancel failed: {answer.stderr.strip()}; the jobs {' '.join(jobs)} may still run")
    return cancelled


def retry(runs_root: Path, pattern: str) -> list[str]:
    """Make the matching failed runs count as stopped, so that applying their sweep submits them; returns their ids.

    Nothing is removed: `error.json` becomes `error.N.json`. A run of which only another host knows is freed as well.
    """
    runs = select_runs(runs_root, pattern)
    verdicts = judge_all(runs, {})
    freed = []
    for run in runs:
        state, submission = verdicts[run.id].state, run.submission()
        if state == "failed" and run.forgive():
            freed.append(run.id)
        elif state == "unknown" and submission is not None and submission.backend == "local":
            run.write_submission(submission.model_copy(update={"cancelled": time.time()}))
            freed.append(run.id)
    return freed


def read_sweep_record(runs_root: Path, name: str) -> dict[str, Any]:
    """The record of an applied sweep.

    Raises:
        BadInput: no such sweep was applied here; the message lists those that were.
    """
    path = runs_root / "sweeps" / name / SWEEP_FILE
    if not path.exists():
        there = ", ".join(applied_sweeps(runs_root)) or "none"
        raise BadInput(f"{runs_root}: no sweep '{name}' was applied here (there are: {there})")
    record: dict[str, Any] = read_json(path)
    return record


def applied_sweeps(runs_root: Path) -> list[str]:
    """Names of the sweeps that were applied here."""
    return sorted(path.parent.name for path in runs_root.glob(f"sweeps/*/{SWEEP_FILE}"))


def inspect_run(path: Path) -> dict[str, Any]:
    """What a run directory holds and what is wrong with it, for `hpcseg inspect`."""
    run = RunDir(path.resolve())
    spec, evidence = run.spec(), run.evidence()
    verdict = _judge({run.id: evidence}, {})[run.id]
    report: dict[str, Any] = {
        "kind": "run",
        "id": run.id,
        "stage": run.stage,
        "state": verdict.state,
        "why": verdict.why,
    }
    if isinstance(spec, PackSpec):
        report |= {"dataset": spec.dataset, "cases": len(spec.cases), "spacing_zyx": list(spec.spacing_zyx)}
    else:
        config = spec.config
        report |= {"strategy": config.strategy, "labelled": config.labelled, "fold": config.fold, "seed": config.seed}
    if evidence.submission is not None:
        report["submission"] = evidence.submission.model_dump(mode="json", exclude_none=True)
    training = run.path / TRAINING_FILE
    if training.exists():
        report["reading"] = read_json(training).get("reading", [])
    broken = verdict.state in {"failed", "lost"}
    return report | {"problems": [f"{run.id}: {verdict.why}"] if broken else []}


def _runs_of(runs_root: Path, sweeps: Sequence[str]) -> tuple[list[RunDir], dict[str, list[str]]]:
    """Runs of sweeps, in the order of the stages, and what each needs."""
    records = [read_sweep_record(runs_root, name) for name in (sweeps or applied_sweeps(runs_root))]
    runs: dict[str, RunDir] = {}
    needs: dict[str, list[str]] = {}
    for stage in ("pack", "pretrain", "train"):
        for record in records:
            runs |= {run_id: RunDir.of(runs_root, stage, run_id) for run_id in record["stages"][stage]}
    for record in records:
        needs |= record["needs"]
    return list(runs.values()), needs


def _judge(evidence: Mapping[str, Evidence], needs: Mapping[str, Sequence[str]]) -> dict[str, Verdict]:
    asked = any(
        found.submission is not None and found.submission.backend == "slurm" and found.failure is None
        for found in evidence.values()
    )
    return reconcile(evidence, needs, read_queue() if asked else None, time.time())


def _line(run: RunDir, verdict: Verdict, evidence: Evidence) -> RunStatus:
    heartbeat = evidence.heartbeat
    status = RunStatus(run.id, run.stage, verdict.state, verdict.why, job=evidence.job or "")
    if heartbeat is None:
        return status
    facts = {name: getattr(heartbeat, name) for name in ("phase", "step", "steps", "epoch", "loss", "attempt")}
    eta_s = heartbeat.eta_s if verdict.state == "running" else None
    return RunStatus(**(asdict(status) | facts | {"eta_s": eta_s}))


def _terminate(run: RunDir, heartbeat: Heartbeat) -> None:
    if heartbeat.host != socket.gethostname():
        raise BadInput(f"{run.id} runs on {heartbeat.host}; cancel it there")
    if heartbeat.alive:
        os.kill(heartbeat.pid, signal.SIGTERM)
