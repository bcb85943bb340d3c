"""Slurm jobs: what is to be submitted is arranged in arrays, written down, and handed to sbatch array by array."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from hpcseg.errors import SchedulerError
from hpcseg.jobs.nodes import read_nodes, recent_bad, to_exclude
from hpcseg.jobs.task import run_task
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission, array_folder, write_array
from hpcseg.runs.recovery import mebibytes
from hpcseg.sweeps.adoption import settle
from hpcseg.sweeps.arrange import Array, arrange
from hpcseg.sweeps.intents import write_intents
from hpcseg.sweeps.plan import Plan
from hpcseg.sweeps.profile import SlurmProfile
from hpcseg.sweeps.script import PICKLE, grown_memory_mb, lead_for, longest_saves, script_text
from hpcseg.training.control import read_heartbeat

MAX_ARRAY_SIZE = 1001  # Slurm's own default
SBATCH_TIMEOUT_S = 60
SIBLINGS = 20  # finished runs of a stage whose saves are looked at
# What sbatch says when it was not heard, or did not hear: the jobs may exist.
_NOT_HEARD = re.compile(r"timed out|contact|zero bytes|connect|communicat|transmi|protocol", re.IGNORECASE)
_SLURMS_OWN = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"}


@dataclass(frozen=True)
class Refusal:
    """Why sbatch gave no id: in its own words, and whether it is Slurm's answer or there was none."""

    words: str
    heard: bool


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


def max_array_size() -> int:
    """Largest array that this cluster takes; Slurm's default where it does not say.

    Raises:
        SchedulerError: scontrol does not answer.
    """
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SchedulerError(f"scontrol does not answer ({error}); is Slurm up? sinfo shows it") from None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    return int(found[1]) if found else MAX_ARRAY_SIZE


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
    answer = sbatch(script)
    if isinstance(answer, str):
        write_array(runs_root, record.model_copy(update={"job_id": answer}))
        return answer
    (settled,) = settle(runs_root, [record], answer.words, sure=answer.heard)
    if settled.job_id is not None:
        return settled.job_id
    what = f"an array of {len(record.runs)} {record.stage} jobs"
    if settled.refused:
        raise SchedulerError(f"sbatch refused {what}: {answer.words}")
    raise SchedulerError(
        f"sbatch did not confirm {what} ({answer.words}), and squeue does not answer; when hpcseg status does, run the "
        "same command again"
    )


def sbatch(script: Path) -> str | Refusal:
    """Slurm's id of the job that sbatch makes of a script."""
    # What belongs to a job that hpcseg itself may run in is not for the new ones.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in _SLURMS_OWN}
    try:
        answer = subprocess.run(
            ["sbatch", "--parsable", str(script)],
            capture_output=True,
            text=True,
            check=False,
            timeout=SBATCH_TIMEOUT_S,
            env=kept,
        )
    except subprocess.TimeoutExpired as late:
        # Where no more jobs are allowed for now, sbatch says so and tries again and again.
        said = _words((late.stderr or b"").decode(errors="replace"))
        return Refusal(f"sbatch did not succeed in {SBATCH_TIMEOUT_S} s" + (f": {said}" if said else ""), heard=False)
    except OSError as error:
        return Refusal(f"sbatch cannot be run: {error.strerror}", heard=True)
    found = re.match(r"(\d+)", answer.stdout.strip())
    if answer.returncode == 0 and found:
        return found[1]
    words = _words(answer.stderr) or f"sbatch failed with exit code {answer.returncode}"
    return Refusal(words, heard=answer.returncode != 0 and not _NOT_HEARD.search(words))


def _words(text: str) -> str:
    """What sbatch says, in one line, each thing once."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


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
