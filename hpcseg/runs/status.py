"""Where every run is, and why: evidence from the run directories, one squeue call, and what a run's ancestors say."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hpcseg.errors import BadInput
from hpcseg.files import read_json
from hpcseg.paths import SWEEP_FILE, TRAINING_FILE, sweep_folder
from hpcseg.runs.applied import applied_sweeps, read_sweep_record
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.judge import judge
from hpcseg.runs.lines import RunStatus, line_of
from hpcseg.runs.rundir import RunDir, find_runs, read_evidence
from hpcseg.slurm.accounting import Fate
from hpcseg.slurm.queue import Queue, read_queue


class Findings(NamedTuple):
    """What is known of runs, by id, and what squeue said (None: not asked)."""

    evidence: dict[str, Evidence]
    verdicts: dict[str, Verdict]
    queue: Queue | None


def read_status(runs_root: Path, sweeps: Sequence[str] = (), ends: Ends | None = None) -> list[RunStatus]:
    """State of all runs of the applied sweeps (all of them by default), ancestors first.

    squeue is asked once, and sacct at most once. `ends` remembers what sacct said, for whoever calls this again.

    Raises:
        BadInput: no such sweep was applied here, or its record is damaged.
    """
    runs, needs = runs_of(runs_root, sweeps)
    found = look(runs, needs, Ends() if ends is None else ends, attempts=True)
    now = time.time()
    return [line_of(run.id, run.stage, found.verdicts[run.id], found.evidence[run.id], now) for run in runs]


def judge_all(runs: Iterable[RunDir], needs: Mapping[str, Sequence[str]]) -> dict[str, Verdict]:
    """Verdicts by id; squeue is asked once, and only if there is a Slurm job."""
    return look(list(runs), needs).verdicts


def look(
    runs: Sequence[RunDir], needs: Mapping[str, Sequence[str]], ends: Ends | None = None, *, attempts: bool = False
) -> Findings:
    """Evidence and verdicts of runs.

    Args:
        runs: ancestors first.
        needs: ancestors by id.
        ends: ask sacct about jobs that are gone without a word.
        attempts: read what is known of each attempt as well.
    """
    evidence = read_evidence(runs, attempts=attempts)
    queue, now = _asked_queue(evidence.values()), time.time()
    verdicts = reconcile(evidence, needs, queue, now)
    # Files were read before processes and queue were asked: what ended in between is looked at again.
    doubtful = [run for run in runs if verdicts[run.id].state in {"lost", "stopped"}]
    changed = {i: found for i, found in read_evidence(doubtful, attempts=True).items() if found != evidence[i]}
    fates: dict[str, Fate] = {}
    if changed:
        evidence |= changed
        verdicts = reconcile(evidence, needs, queue, now)
    if ends is not None:
        gone = {v.job: run for run in doubtful if (v := verdicts[run.id]).state == "lost" and v.job and not v.cause}
        fates = ends.of(gone)
        if fates:
            verdicts = reconcile(evidence, needs, queue, now, fates)
    return Findings(evidence, verdicts, queue)


def reconcile(
    evidence: Mapping[str, Evidence],
    needs: Mapping[str, Sequence[str]],
    queue: Queue | None,
    now: float,
    fates: Mapping[str, Fate] | None = None,
) -> dict[str, Verdict]:
    """Verdict of every run from its own evidence and its ancestors' (ancestors come first). Pure.

    A run that was not begun is blocked when something that it needs failed or is blocked itself. `fates` says by job
    how those ended that left the queue.
    """
    verdicts: dict[str, Verdict] = {}
    for run_id, found in evidence.items():
        verdict = judge(found, queue, now, fates.get(found.job or "") if fates else None)
        if verdict.state in {"new", "stopped", "lost", "queued", "blocked"}:
            dead = {"failed", "blocked"}
            if verdict.state in {"lost", "blocked"} and found.current is None:  # removed from the queue with them
                dead |= {"lost", "stopped"}
            failed = [name for name in needs.get(run_id, ()) if name in verdicts and verdicts[name].state in dead]
            if failed:
                verdict = replace(verdict, state="blocked", why=f"{failed[0]}: {verdicts[failed[0]].why}")
        verdicts[run_id] = verdict
    return verdicts


def select_runs(runs_root: Path, pattern: str) -> list[RunDir]:
    """Runs whose id matches a shell pattern or starts with it, or that belong to the sweep of that name.

    Raises:
        BadInput: there is none.
    """
    if (sweep_folder(runs_root, pattern) / SWEEP_FILE).exists():
        return runs_of(runs_root, [pattern])[0]
    runs = [run for run in find_runs(runs_root) if fnmatch.fnmatchcase(run.id, pattern) or run.id.startswith(pattern)]
    if not runs:
        raise BadInput(f"no run or sweep in {runs_root} matches '{pattern}'; hpcseg status lists them")
    return runs


def select_run(runs_root: Path, pattern: str) -> RunDir:
    """The one run that `pattern` means (see `select_runs`), a whole id before the beginning of others.

    Raises:
        BadInput: there is none, or more than one.
    """
    runs = select_runs(runs_root, pattern)
    exact = [run for run in runs if run.id == pattern] or runs
    if len(exact) > 1:
        few = ", ".join(run.id for run in exact[:3])
        raise BadInput(f"{len(exact)} runs match '{pattern}'; give more of the id: {few} …")
    return exact[0]


def newest_log(run: RunDir) -> Path:
    """The file with the output of the run's last attempt.

    Raises:
        BadInput: the run has not written any.
    """
    path = run.newest_log()
    if path is None:
        raise BadInput(f"{run.path}: no log yet; hpcseg status --why {run.id} says where it is")
    return path


def inspect_run(path: Path) -> dict[str, Any]:
    """What a run directory holds and what is wrong with it, for `hpcseg inspect`."""
    from hpcseg.spec import PackSpec

    run = RunDir(path.resolve())
    spec = run.spec()
    found = look([run], {})
    evidence, verdict = found.evidence[run.id], found.verdicts[run.id]
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
    broken = verdict.state in {"failed", "lost"} or evidence.damage
    return report | {"problems": [f"{run.id}: {verdict.why}"] if broken else []}


def runs_of(runs_root: Path, sweeps: Sequence[str]) -> tuple[list[RunDir], dict[str, list[str]]]:
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


def _asked_queue(evidence: Iterable[Evidence]) -> Queue | None:
    asked = any(found.submission is not None and found.submission.backend == "slurm" for found in evidence)
    return read_queue() if asked else None
