"""Slurm jobs: what is to be submitted is arranged in arrays, written down, and handed to sbatch array by array."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit.helpers import DelayedSubmission

from hpcseg.errors import SchedulerError
from hpcseg.heartbeat import read_heartbeat
from hpcseg.jobs.task import run_task
from hpcseg.paths import array_folder
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission, write_array
from hpcseg.runs.recovery import mebibytes
from hpcseg.slurm.calls import CallError
from hpcseg.slurm.commands import max_array_size, may_exist, sbatch
from hpcseg.slurm.nodes import read_nodes, recent_bad, to_exclude
from hpcseg.study.plan import Plan
from hpcseg.submit.adoption import settle
from hpcseg.submit.arrange import Array, arrange
from hpcseg.submit.intents import write_intents
from hpcseg.submit.profile import SlurmProfile
from hpcseg.submit.script import PICKLE, grown_memory_mb, lead_for, longest_saves, script_text

SIBLINGS = 20  # finished runs of a stage whose saves are looked at


def submit(
    plan: Plan, run_ids: Sequence[str], profile: SlurmProfile, found: Mapping[str, Evidence], jobs: Mapping[str, str]
) -> dict[str, str]:
    """Submit the stages `run_ids` of a plan as arrays; returns the Slurm job of each run. Hold the lock.

    Args:
        plan: holds the runs.
        run_ids: nobody works on them; what they need is done, or among them before them, or among `jobs`.
        profile: resources.
        found: what the files of all runs of the plan say.
        jobs: Slurm's ids of the unfinished ancestors that were submitted earlier.

    Raises:
        SchedulerError: sbatch refused an array; those before it are submitted, and nothing else is.
    """
    pending = set(run_ids) | set(jobs)
    memory = {run_id: _memory_mb(plan, run_id, profile, found[run_id]) for run_id in run_ids}
    arrays = arrange(
        run_ids,
        {run_id: plan.stages[run_id].stage for run_id in run_ids},
        {run_id: [need for need in plan.stages[run_id].needs if need in pending] for run_id in run_ids},
        {run_id: plan.stages[run_id].column for run_id in run_ids},
        jobs,
        max_array_size(),
        memory,
    )
    stages = {array.stage for array in arrays}
    exclude = {stage: _without(plan, profile, stage) for stage in stages}
    records = [_record(array, profile, memory[array.runs[0]], exclude[array.stage]) for array in arrays]
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
        same_task_of = [submitted[other] for other in array.same_task_of]
        try:
            job = _submit_array(plan.runs_root, record, profile, leads[array.stage], after, same_task_of)
        except SchedulerError as error:
            for other in records[number + 1 :]:
                write_array(plan.runs_root, other.model_copy(update={"refused": f"not submitted: {error}"}))
            rest = sum(len(other.runs) for other in records[number:])
            raise SchedulerError(f"{error} ({len(ids)} runs were submitted, {rest} were not)") from None
        submitted.append(job)
        ids |= {run_id: f"{job}_{task}" for run_id, task in zip(record.runs, record.tasks, strict=True)}
    return ids


def _submit_array(
    runs_root: Path,
    record: ArrayRecord,
    profile: SlurmProfile,
    lead_s: int,
    after: Sequence[str],
    same_task_of: Sequence[str],
) -> str:
    """Hand one array to Slurm; returns its id, which `array.json` holds from then on."""
    folder = array_folder(runs_root, record.tag)
    delayed = DelayedSubmission(run_task, str(folder))
    delayed.set_timeout(record.asked.minutes, 10**6)  # a run that saves may be requeued as often as it needs
    delayed.dump(folder / PICKLE)
    script = folder / "script.sh"
    text = script_text(profile, record, folder, lead_s=lead_s, after=after, same_task_of=same_task_of)
    script.write_text(text, encoding="utf-8")
    try:
        job = sbatch(script)
    except CallError as error:
        (settled,) = settle(runs_root, [record], str(error), sure=not may_exist(error))
        if settled.job_id is not None:
            return settled.job_id
        what = f"an array of {len(record.runs)} {record.stage} jobs"
        if settled.refused:
            raise SchedulerError(f"sbatch refused {what}: {error}") from None
        raise SchedulerError(
            f"sbatch did not confirm {what} ({error}), and squeue does not answer; when hpcseg status does, run the "
            "same command again"
        ) from None
    write_array(runs_root, record.model_copy(update={"job_id": job}))
    return job


def _record(array: Array, profile: SlurmProfile, memory_mb: int, exclude: tuple[str, ...]) -> ArrayRecord:
    resources = profile.of(array.stage)
    asked = Asked(
        minutes=resources.time,
        memory_mb=memory_mb,
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


def _memory_mb(plan: Plan, run_id: str, profile: SlurmProfile, evidence: Evidence) -> int:
    """Memory of each node that a run asks for: the profile's, or more than what it used up before."""
    asked = mebibytes(profile.of(plan.stages[run_id].stage).memory)
    if evidence.submission is None:
        return asked
    used_up = [a.memory_mb for a in read_attempts(plan.run(run_id).path) if a.cause == "memory"]
    return grown_memory_mb(asked, max(used_up, default=0), profile)


def _lead_s(plan: Plan, stage: str, profile: SlurmProfile, found: Mapping[str, Evidence]) -> int:
    """Warning before the time limit, by what saving cost the stage's runs so far."""
    runs = plan.of_stage(stage)
    beats = [found[run_id].heartbeat for run_id in runs]
    done = [run_id for run_id in runs if found[run_id].done][:SIBLINGS]
    beats += [read_heartbeat(plan.run(run_id).path) for run_id in done]
    resources = profile.of(stage)
    saves = longest_saves([beat.checkpoint for beat in beats if beat is not None])
    return lead_for(resources.signal_lead, saves, resources.time)


def _without(plan: Plan, profile: SlurmProfile, stage: str) -> tuple[str, ...]:
    """Nodes that a stage's jobs are not to get: those of the profile, and those that failed in the last day."""
    bad = recent_bad(plan.runs_root, time.time())
    if bad:
        bad = to_exclude(bad, read_nodes(profile.partition), profile.of(stage).nodes)
    return tuple(sorted({*profile.exclude, *bad}))
