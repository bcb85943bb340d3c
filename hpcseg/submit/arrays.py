"""Slurm jobs: what is to be submitted is arranged in arrays, written down, and handed to sbatch array by array."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit.helpers import DelayedSubmission

from hpcseg.errors import SchedulerError
from hpcseg.heartbeat import read_heartbeat
from hpcseg.jobs.task import run_task
from hpcseg.owners import private_folder
from hpcseg.paths import array_folder
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission, write_array
from hpcseg.slurm.calls import CallError
from hpcseg.slurm.commands import may_exist, submit_script
from hpcseg.slurm.nodes import read_nodes, recent_bad, to_exclude
from hpcseg.study.plan import Plan
from hpcseg.submit.adoption import adopt_or_give_up
from hpcseg.submit.arrange import Array
from hpcseg.submit.profile import SlurmProfile
from hpcseg.submit.record import write_intents
from hpcseg.submit.script import PICKLE, dependency_text, lead_for, script_text

SIBLINGS = 20  # finished runs of a stage whose saves are looked at


def submit(
    plan: Plan, arrays: Sequence[Array], profile: SlurmProfile, found: Mapping[str, Evidence], cluster: str = ""
) -> dict[str, str]:
    """Submit arrays of a plan's stages; returns the Slurm job of each run. Hold the lock.

    Args:
        plan: holds the runs.
        arrays: of runs that nobody works on, as `arrange.arrays_of` makes them.
        profile: resources.
        found: what the files of all runs of the plan say.
        cluster: Slurm's name of it.

    Raises:
        SchedulerError: sbatch refused an array; those before it are submitted, and nothing else is.
    """
    stages = {array.stage for array in arrays}
    exclude = {stage: _without(plan, profile, stage) for stage in stages}
    place = {"cluster": cluster, "root": str(plan.runs_root)}
    records = [_record(array, profile, exclude[array.stage]).model_copy(update=place) for array in arrays]
    submissions = {
        run_id: _submission(record, task, profile)
        for record in records
        for run_id, task in zip(record.runs, record.tasks, strict=True)
    }
    write_intents(plan, found, submissions, records)
    leads = {stage: _lead_s(plan, stage, profile, found) for stage in stages}
    submitted: list[str] = []
    ids: dict[str, str] = {}
    for number, (array, record) in enumerate(zip(arrays, records, strict=True)):
        after = [ids.get(name, name) for name in array.after]
        dependency = dependency_text(after, [submitted[other] for other in array.same_task_of])
        try:
            job = _submit_array(plan.runs_root, record, profile, leads[array.stage], dependency)
        except SchedulerError as error:
            for other in records[number + 1 :]:
                write_array(plan.runs_root, other.model_copy(update={"refused": f"not submitted: {error}"}))
            rest = sum(len(other.runs) for other in records[number:])
            raise SchedulerError(f"{error} ({len(ids)} runs were submitted, {rest} were not)") from None
        submitted.append(job)
        ids |= {run_id: f"{job}_{task}" for run_id, task in zip(record.runs, record.tasks, strict=True)}
    return ids


def _submit_array(runs_root: Path, record: ArrayRecord, profile: SlurmProfile, lead_s: int, dependency: str) -> str:
    """Hand one array to Slurm; returns its id, which `array.json` holds from then on."""
    folder = array_folder(runs_root, record.tag)
    delayed = DelayedSubmission(run_task, str(folder))
    delayed.set_timeout(record.asked.minutes, 10**6)  # a run that saves may be requeued as often as it needs
    private_folder(folder)
    delayed.dump(folder / PICKLE)
    (folder / PICKLE).chmod(0o600)
    script = folder / "script.sh"
    script.write_text(script_text(profile, record, folder, lead_s, dependency), encoding="utf-8")
    try:
        job = submit_script(script)
    except CallError as error:
        (known,) = adopt_or_give_up(runs_root, [record], str(error), sure=not may_exist(error))
        if known.job_id is not None:
            return known.job_id
        what = f"an array of {len(record.runs)} {record.stage} jobs"
        if known.refused:
            raise SchedulerError(f"sbatch refused {what}: {error}") from None
        raise SchedulerError(
            f"sbatch did not confirm {what} ({error}), and squeue does not answer; when hpcseg status does, run the "
            "same command again"
        ) from None
    write_array(runs_root, record.model_copy(update={"job_id": job}))
    return job


def _record(array: Array, profile: SlurmProfile, exclude: tuple[str, ...]) -> ArrayRecord:
    resources = profile.of(array.stage)
    asked = Asked(
        minutes=resources.time,
        memory_mb=array.memory_mb,
        cpus=resources.cpus,
        gpus=resources.gpus * resources.nodes,
        nodes=resources.nodes,
        exclude=exclude,
    )
    return ArrayRecord(
        tag=f"{array.stage}-{secrets.token_hex(4)}",
        stage=array.stage,
        runs=array.runs,
        tasks=array.tasks,
        submitted=time.time(),
        host=socket.gethostname(),
        submitter=Process.this(),
        asked=asked,
        budgets=profile.budgets,
        uid=os.geteuid(),
        profile=profile.asks(array.stage),
    )


def _submission(record: ArrayRecord, task: int, profile: SlurmProfile) -> Submission:
    return Submission(
        backend="slurm",
        submitted=record.submitted,
        host=record.host,
        pool=record.submitter,
        array=record.tag,
        task=task,
        threads=record.asked.cpus,
        ranks=profile.ranks_of(record.stage),
        workers=record.asked.cpus,
        reading=profile.reading,
        kernels=profile.kernels,
    )


def _lead_s(plan: Plan, stage: str, profile: SlurmProfile, found: Mapping[str, Evidence]) -> int:
    """Warning before the time limit, by what saving cost the stage's runs so far."""
    runs = plan.of_stage(stage)
    beats = [found[run_id].heartbeat for run_id in runs]
    done = [run_id for run_id in runs if found[run_id].done][:SIBLINGS]
    beats += [read_heartbeat(plan.run(run_id).path) for run_id in done]
    resources = profile.of(stage)
    checkpoints = [beat.checkpoint for beat in beats if beat is not None]
    return lead_for(resources.signal_lead, checkpoints, resources.time)


def _without(plan: Plan, profile: SlurmProfile, stage: str) -> tuple[str, ...]:
    """Nodes that a stage's jobs are not to get: those of the profile, and those that failed in the last day."""
    bad = recent_bad(plan.runs_root, time.time())
    if bad:
        bad = to_exclude(bad, read_nodes(profile.partition), profile.of(stage).nodes)
    return tuple(sorted({*profile.exclude, *bad}))
