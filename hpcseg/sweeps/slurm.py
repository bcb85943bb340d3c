"""Slurm jobs: one array per stage and set of ancestors, submitted through submitit."""

from __future__ import annotations

import re
import secrets
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission

from hpcseg.errors import SchedulerError
from hpcseg.sweeps.entry import run_stage
from hpcseg.sweeps.plan import Plan
from hpcseg.sweeps.profile import SlurmProfile
from hpcseg.sweeps.records import ArrayRecord, Asked, Process, array_folder, write_array
from hpcseg.sweeps.rundir import STAGES

MAX_ARRAY_SIZE = 1001  # Slurm's own default
NO_TIMEOUT_LIMIT = 10**6  # a run that saves before each limit may be requeued as often as it needs


def submit(plan: Plan, run_ids: Sequence[str], profile: SlurmProfile) -> dict[str, str]:
    """Submit the stages `run_ids` of a plan as arrays; returns the Slurm job of each run.

    `job.json` of every run is written as soon as its array is submitted, so that a later failure loses nothing.

    Raises:
        SchedulerError: sbatch refused an array; those before it are submitted.
    """
    jobs: dict[str, str] = {}
    limit = max_array_size()
    for stage in STAGES:
        chosen = [run_id for run_id in run_ids if plan.stages[run_id].spec.stage == stage]
        for ancestors, group in _by_ancestors(plan, chosen, jobs).items():
            parameters = sbatch_parameters(profile, stage, ancestors)
            for part in _parts(group, limit):
                jobs |= _submit_runs(plan, part, profile, parameters)
    return jobs


def sbatch_parameters(profile: SlurmProfile, stage: str, ancestors: Sequence[str]) -> dict[str, Any]:
    """What submitit's SlurmExecutor is told about the jobs of one array. Pure.

    Args:
        profile: resources.
        stage: pack, pretrain or train.
        ancestors: Slurm jobs that must end well before; if one does not, the array is removed from the queue.
    """
    resources = profile.of(stage)
    flags: dict[str, Any] = {"requeue": True, **profile.flags, **resources.flags}
    parameters: dict[str, Any] = {
        "job_name": f"hpcseg-{stage}",
        "time": resources.time,
        "cpus_per_task": resources.cpus,
        "mem": resources.memory,
        "array_parallelism": resources.array_parallelism,
        "signal_delay_s": resources.signal_lead,
        "srun_args": [f"--cpus-per-task={resources.cpus}"],  # which srun does not take from sbatch since 22.05
        "wckey": None,  # submitit's own default is refused where such keys are tracked
    }
    if profile.ranks_of(stage) > 1:
        # One task per rank; srun ends all of them when one fails, so that none waits for it.
        parameters |= {"nodes": resources.nodes, "ntasks_per_node": resources.tasks_per_node}
        parameters["srun_args"].append("--kill-on-bad-exit=1")
    if resources.gpus:
        parameters["gpus_per_node"] = resources.gpus
    if profile.partition:
        parameters["partition"] = profile.partition
    if profile.account:
        parameters["account"] = profile.account
    if profile.setup:
        parameters["setup"] = list(profile.setup)
    if ancestors:
        parameters["dependency"] = "afterok:" + ":".join(ancestors)
        flags["kill-on-invalid-dep"] = "yes"
    parameters["additional_parameters"] = flags
    return parameters


def max_array_size() -> int:
    """Largest array that this cluster takes; Slurm's default where it does not say."""
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SchedulerError(f"scontrol does not answer ({error}); is Slurm up? sinfo shows it") from None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    return int(found[1]) if found else MAX_ARRAY_SIZE


def _by_ancestors(plan: Plan, run_ids: Sequence[str], jobs: dict[str, str]) -> dict[tuple[str, ...], list[str]]:
    """Runs grouped by the jobs that must end before."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for run_id in run_ids:
        needs = [need for need in plan.stages[run_id].needs if plan.stages[need].verdict.state != "done"]
        ancestors = {jobs[need] if need in jobs else plan.run(need).evidence().job or "" for need in needs}
        groups.setdefault(tuple(sorted(ancestors - {""})), []).append(run_id)
    return groups


def _parts(run_ids: list[str], limit: int) -> Iterator[list[str]]:
    for start in range(0, len(run_ids), limit):
        yield run_ids[start : start + limit]


def _submit_runs(plan: Plan, run_ids: list[str], profile: SlurmProfile, parameters: dict[str, Any]) -> dict[str, str]:
    stage = plan.stages[run_ids[0]].spec.stage
    resources = profile.of(stage)
    record = ArrayRecord(
        tag=f"{stage}-{secrets.token_hex(4)}",
        stage=stage,
        runs=tuple(run_ids),
        tasks=tuple(range(len(run_ids))),
        submitted=time.time(),
        host=socket.gethostname(),
        submitter=Process.this(),
        asked=Asked(minutes=resources.time, memory_mb=0, cpus=resources.cpus, gpus=resources.gpus),
    )
    write_array(plan.runs_root, record)
    for run_id, task in zip(run_ids, record.tasks, strict=True):
        run = plan.run(run_id)
        submission = run.submission()
        assert submission is not None  # written when the run was claimed
        run.write_submission(submission.model_copy(update={"array": record.tag, "task": task}))
    folder = array_folder(plan.runs_root, record.tag)
    executor = Arrays(folder, max_num_timeout=NO_TIMEOUT_LIMIT, python=profile.python or None)
    executor.update_parameters(**{**parameters, "job_name": record.job_name})
    try:
        job_id = executor.submit_runs({t: str(plan.run(i).path) for i, t in zip(run_ids, record.tasks, strict=True)})
    except (subprocess.SubprocessError, OSError) as error:
        raise SchedulerError(f"sbatch refused an array of {len(run_ids)} {stage} jobs: {error}") from None
    write_array(plan.runs_root, record.model_copy(update={"job_id": job_id}))
    return {run_id: f"{job_id}_{task}" for run_id, task in zip(run_ids, record.tasks, strict=True)}


class Arrays(submitit.SlurmExecutor):
    """submitit's executor for arrays whose pickles are there before sbatch is called, by task: a job finds its own
    whether or not anybody heard of the job's id."""

    def submit_runs(self, run_dirs: Mapping[int, str]) -> str:
        """Submit one job for each run directory, by task; returns Slurm's id of the array."""
        folder = Path(self.folder)
        for task, run_dir in run_dirs.items():
            delayed = DelayedSubmission(run_stage, run_dir)
            delayed.set_timeout(self.parameters.get("time", 60), self.max_num_timeout)
            delayed.dump(folder / f"{task}.pkl")
        parallel = min(len(run_dirs), self.parameters.get("array_parallelism", len(run_dirs)))
        name = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}_submitted.pkl"
        own = f'cp -n {shlex.quote(str(folder))}/$SLURM_ARRAY_TASK_ID.pkl {shlex.quote(str(folder))}/"{name}"'
        self.parameters["setup"] = [own, *self.parameters.get("setup", ())]
        self.parameters["map_count"] = len(run_dirs)
        self.parameters["additional_parameters"]["array"] = ",".join(map(str, run_dirs)) + f"%{parallel}"
        script = folder / "script.sh"
        script.write_text(self._make_submission_file_text(self._submitit_command_str, ""))
        answer = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=True, timeout=60)
        return str(self._get_job_id_from_submission_command(answer.stdout))
