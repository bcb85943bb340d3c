"""Doing what a plan says. Idempotent: finished and running runs are left alone, new and failed ones are submitted.

A lock on the folder of all runs, and the submission written before anything starts, keep two `hpcseg sweep` from
submitting a run twice.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from hpcseg.errors import HpcsegError
from hpcseg.files import write_json, write_text
from hpcseg.spec import RUN_FILE, PackSpec
from hpcseg.sweeps.evidence import TO_SUBMIT, Verdict
from hpcseg.sweeps.plan import Plan, Spec
from hpcseg.sweeps.profile import LocalProfile, Profile, Slots, memory_gib, resolve, usable_cores
from hpcseg.sweeps.queue import slurm_available
from hpcseg.sweeps.records import Process, Submission
from hpcseg.sweeps.rundir import STAGES, RunDir
from hpcseg.sweeps.slots import Event, Notify, Pool, visible_gpus
from hpcseg.sweeps.status import SWEEP_FILE, judge_all
from hpcseg.training.seat import check_shares

LOCK_WAIT_S = 120.0
Backend = Literal["local", "slurm"]


@dataclass(frozen=True)
class Outcome:
    """What applying a plan did.

    Attributes:
        submitted: runs that this call submitted.
        verdicts: how every run of the plan stands at the end (Slurm: right after submission).
    """

    submitted: tuple[str, ...]
    verdicts: dict[str, Verdict]

    @property
    def failed(self) -> dict[str, str]:
        """Runs that did not get to their end, and why."""
        return {i: v.why for i, v in self.verdicts.items() if v.state in {"failed", "lost", "blocked", "stopped"}}


def choose_backend(on: Literal["auto", "local", "slurm"]) -> Backend:
    """`auto`: Slurm where sbatch is installed and a controller answers, else this host."""
    if on == "auto":
        return "slurm" if slurm_available() else "local"
    return on


def apply(plan: Plan, on: Backend, profile: Profile, notify: Notify | None = None) -> Outcome:
    """Submit what the plan lacks. `local` returns when everything is done, `slurm` when everything is queued.

    Raises:
        BadInput: a scan that is to be packed is bad, or the ranks of a job cannot share a run; nothing is written.
        Interrupted: (local) stopped by Ctrl-C or a signal, after the jobs saved.
        SchedulerError: (Slurm) an array was refused.
        HpcsegError: another process holds the lock for too long.
    """
    check_new_packs(plan)
    check_new_ranks(plan, profile.slurm.ranks_of if on == "slurm" else profile.local.ranks_of)
    record(plan)
    if on == "slurm":
        return _apply_slurm(plan, profile)
    gpus = visible_gpus()
    counts = {stage: len(plan.of_stage(stage)) for stage in STAGES}
    slots = resolve(
        profile.local,
        runs=counts["train"],
        packs=counts["pack"],
        cores=usable_cores(),
        gpus=len(gpus),
        memory_gib=memory_gib(),
    )
    submitted: list[str] = []

    def take(run_ids: list[str]) -> list[str]:
        taken = claim(plan, run_ids, lambda spec: _local_submission(slots, profile.local, spec.stage))
        submitted.extend(taken)
        return taken

    pool = Pool(plan, slots, gpus, take, notify or _silent)
    verdicts = pool.run()
    return Outcome(tuple(submitted), verdicts)


def check_new_packs(plan: Plan) -> None:
    """Look at the headers of all scans that are to be packed, before anything is written.

    Raises:
        BadInput: a scan is bad; the message names the file and the remedy.
    """
    from hpcseg.volumes.packing import check_cases

    for planned in plan.stages.values():
        if planned.to_submit and isinstance(planned.spec, PackSpec):
            check_cases(planned.spec)


def check_new_ranks(plan: Plan, ranks: Callable[[str], int]) -> None:
    """Look whether every run that is to train can be shared by the ranks that a job of its stage has.

    Raises:
        BadInput: a minibatch has fewer patches than there are ranks.
    """
    for planned in plan.stages.values():
        if planned.to_submit and not isinstance(planned.spec, PackSpec):
            check_shares(planned.spec, ranks(planned.spec.stage))


def claim(plan: Plan, run_ids: list[str], submission: Callable[[Spec], Submission]) -> list[str]:
    """Take those of `run_ids` that nobody works on: write what they have to do and who does it; returns their ids."""
    with _lock(plan.runs_root):
        verdicts = judge_all([plan.run(run_id) for run_id in run_ids], {})
        taken = [run_id for run_id in run_ids if verdicts[run_id].state in TO_SUBMIT]
        for run_id in taken:
            _write_intent(plan.run(run_id), plan.stages[run_id].spec, submission(plan.stages[run_id].spec))
    return taken


def record(plan: Plan) -> None:
    """Write `sweep.json`, which status and collect read, and a copy of the sweep file beside it."""
    sweep = plan.sweep
    folder = plan.runs_root / "sweeps" / sweep.name
    training = plan.of_stage("train")
    value: dict[str, Any] = {
        "name": sweep.name,
        "title": sweep.heading.title,
        "file": str(sweep.source.path.resolve()),
        "overrides": list(sweep.overrides.values()),
        "applied": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tables": [table.model_dump(mode="json") for table in sweep.tables],
        "figures": [figure.model_dump(mode="json") for figure in sweep.figures],
        "runs": [
            {
                "id": run_id,
                "stage": "train",
                "config": planned.spec.config.model_dump(mode="json") if not isinstance(planned.spec, PackSpec) else {},
                "cells": plan.cells[run_id],
                "needs": list(planned.needs),
            }
            for run_id, planned in training.items()
        ],
        "stages": {stage: list(plan.of_stage(stage)) for stage in STAGES},
        "needs": {run_id: list(planned.needs) for run_id, planned in plan.stages.items()},
    }
    with _lock(plan.runs_root):
        write_json(folder / SWEEP_FILE, value)
        write_text(folder / sweep.source.path.name, sweep.source.text)


def _apply_slurm(plan: Plan, profile: Profile) -> Outcome:
    from hpcseg.sweeps import slurm

    resources = profile.slurm

    def submission(spec: Spec) -> Submission:
        cpus = resources.of(spec.stage).cpus
        return Submission(
            backend="slurm",
            submitted=time.time(),
            host=socket.gethostname(),
            pool=Process.this(),
            threads=cpus,
            ranks=resources.ranks_of(spec.stage),
            workers=cpus,
            reading=resources.reading,
        )

    with _lock(plan.runs_root):
        taken = claim(plan, list(plan.stages), submission)
        jobs = slurm.submit(plan, taken, resources)
    verdicts = {run_id: planned.verdict for run_id, planned in plan.stages.items()}
    return Outcome(tuple(taken), verdicts | {i: Verdict("queued", f"Slurm job {job}") for i, job in jobs.items()})


def _local_submission(slots: Slots, profile: LocalProfile, stage: str) -> Submission:
    return Submission(
        backend="local",
        submitted=time.time(),
        host=socket.gethostname(),
        pool=Process.this(),
        threads=slots.threads,
        ranks=profile.ranks_of(stage),
        workers=slots.pack_workers,
        reading=profile.reading,
    )


def _write_intent(run: RunDir, spec: Spec, submission: Submission) -> None:
    run.forgive()
    text = spec.model_dump_json(indent=1) + "\n"
    path = run.path / RUN_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    before, heartbeat = run.submission(), run.heartbeat()
    fixed: dict[str, Any] = {"attempt": 1 if heartbeat is None else heartbeat.attempt + 1}
    if before is not None:
        fixed["threads"] = before.threads
    run.write_submission(submission.model_copy(update=fixed))


@contextlib.contextmanager
def _lock(runs_root: Path) -> Iterator[None]:
    """Hold the folder of all runs; a process that holds it already may take it again."""
    runs_root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(runs_root / ".lock", is_singleton=True)
    try:
        lock.acquire(timeout=LOCK_WAIT_S, poll_interval=0.1)
    except Timeout:
        raise HpcsegError(f"{runs_root}: another hpcseg is submitting since {LOCK_WAIT_S:.0f} s; try again") from None
    try:
        yield
    finally:
        lock.release()


def _silent(event: Event) -> None:
    pass
