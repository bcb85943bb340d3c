"""Slurm jobs: one array per stage and set of ancestors, submitted through submitit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from hpcseg.errors import SchedulerError
from hpcseg.sweeps.entry import run_stage
from hpcseg.sweeps.plan import Plan
from hpcseg.sweeps.profile import SlurmProfile
from hpcseg.sweeps.rundir import STAGES, RunDir

LOGS = "slurm"  # folder of all arrays' scripts and output, below the folder of all runs
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
                jobs |= _submit_array(plan, part, profile, parameters)
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
    """Runs grouped by the jobs that must end before; ancestors submitted now count as whole arrays."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for run_id in run_ids:
        needs = [need for need in plan.stages[run_id].needs if plan.stages[need].verdict.state != "done"]
        ancestors = {jobs[need].partition("_")[0] if need in jobs else _job_of(plan.run(need)) for need in needs}
        groups.setdefault(tuple(sorted(ancestors - {""})), []).append(run_id)
    return groups


def _job_of(run: RunDir) -> str:
    """The Slurm job of a run that was submitted earlier; empty for other runs and finished ones."""
    submission = run.submission()
    if run.is_done() or submission is None or submission.backend != "slurm":
        return ""
    return submission.job_id or ""


def _parts(run_ids: list[str], limit: int) -> Iterator[list[str]]:
    for start in range(0, len(run_ids), limit):
        yield run_ids[start : start + limit]


def _submit_array(plan: Plan, run_ids: list[str], profile: SlurmProfile, parameters: dict[str, Any]) -> dict[str, str]:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = plan.runs_root / LOGS
    executor = submitit.SlurmExecutor(folder, max_num_timeout=NO_TIMEOUT_LIMIT, python=profile.python or None)
    executor.update_parameters(**parameters)
    runs = [plan.run(run_id) for run_id in run_ids]
    try:
        submitted = executor.map_array(run_stage, [str(run.path) for run in runs])
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SchedulerError(f"sbatch refused an array of {len(runs)} {runs[0].stage} jobs: {lines[-1]}") from None
    jobs = {}
    for run, job in zip(runs, submitted, strict=True):
        submission = run.submission()
        assert submission is not None  # written when the run was claimed
        run.write_submission(submission.model_copy(update={"job_id": job.job_id, "logs": LOGS}))
        jobs[run.id] = job.job_id
    return jobs
