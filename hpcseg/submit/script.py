"""The batch script of an array: what sbatch is asked for, and what each of its jobs does. Pure.

A job runs submitit's entry point, by way of hpcseg.jobs.start, which loads what to do from a pickle. There is one for
the whole array, under a name of ours that is there before sbatch is called; the job copies it to the name that submitit
looks for, so that it finds it whether or not anybody heard of the job's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string  # the only private part of submitit that is used

from hpcseg.runs.records import ArrayRecord
from hpcseg.slurm.job import TASK_IN_SHELL
from hpcseg.slurm.queue import expression_of
from hpcseg.submit.profile import SlurmProfile
from hpcseg.text import word

PICKLE = "task.pkl"
SHORTEST_LEAD_S = 60
_OTHER_MEMORY = {"mem-per-cpu", "mem-per-gpu"}  # sbatch takes one kind only
_TASK_PICKLE = f'"{TASK_IN_SHELL}_submitted.pkl"'


def script_text(
    profile: SlurmProfile,
    record: ArrayRecord,
    folder: Path,
    lead_s: int,
    dependency: str = "",
) -> str:
    """The script that sbatch is given for one array.

    Args:
        profile: resources; what `record.asked` says goes before.
        record: the array.
        folder: of the array; holds the pickle and receives the output.
        lead_s: seconds between the warning and the time limit.
        dependency: what its jobs wait for (see `dependency_text`); "": nothing.
    """
    at = word(folder)
    parameters = job_parameters(profile, record, lead_s, dependency)
    trap = "terminated=; trap terminated=yes TERM"
    # How long the output of earlier starts is: only what follows it says how this one ended.
    began = f'began=$(cd {at} && stat -c %n=%s "{TASK_IN_SHELL}"_*_log.err 2>/dev/null)'
    parameters["setup"] = [began, f"cp -n {at}/{PICKLE} {at}/{_TASK_PICKLE}", *profile.setup, trap]
    # A job that is asked to end (time limit, scancel, preemption) may leave srun with code 0.
    aftermath = f"{profile.script_python} -P -m hpcseg.jobs.aftermath {at} $code $began"
    parameters["teardown"] = [f'code=$?; [ "$code$terminated" = 0 ] || ! {aftermath} || code=0; exit $code']
    command = f"{profile.job_python} -P -u -m hpcseg.jobs.start {at}"
    # Any number makes submitit name the output by array and task; the indices are given with the other flags.
    # In names of output Slurm replaces what follows a percent sign.
    output = Path(str(folder).replace("%", "%%"))
    text: str = _make_sbatch_string(command=command, folder=output, map_count=len(record.runs), **parameters)
    return text + "\n"


def job_parameters(profile: SlurmProfile, record: ArrayRecord, lead_s: int, dependency: str = "") -> dict[str, Any]:
    """What sbatch is asked for, by submitit's names; see `script_text`."""
    stage, asked = record.stage, record.asked
    resources = profile.of(stage)
    parameters: dict[str, Any] = {
        "job_name": record.job_name,
        "time": asked.minutes,
        "cpus_per_task": resources.cpus,
        "mem": f"{asked.memory_mb}M",
        "signal_delay_s": lead_s,
        # srun does not take its CPUs from sbatch since 22.05, and its tasks are to have what the script has.
        "srun_args": [f"--cpus-per-task={resources.cpus}", "--export=ALL"],
        "wckey": None,  # submitit's own default is refused where such keys are tracked
    }
    if profile.ranks_of(stage) > 1:
        # One task per rank; srun ends all of them when one fails, so that none waits for it.
        parameters |= {"nodes": resources.nodes, "ntasks_per_node": resources.tasks_per_node}
        parameters["srun_args"].append("--kill-on-bad-exit=1")
    wishes = {"gpus_per_node": resources.gpus, "partition": profile.partition, "account": profile.account}
    wishes |= {"exclude": ",".join(asked.exclude)}
    parameters |= {name: value for name, value in wishes.items() if value}
    own: dict[str, Any] = {"requeue": True, "array": array_text(record.tasks, resources.array_parallelism)}
    own |= {"export": "ALL"}
    if dependency:
        own |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    # What the profile asks for by hand replaces what would be asked for otherwise.
    flags = {name: value for name, value in {**profile.flags, **resources.flags}.items() if value is not False}
    replaced = {name.replace("-", "_") for name in flags} | ({"mem"} if flags.keys() & _OTHER_MEMORY else set())
    parameters = {name: value for name, value in parameters.items() if name not in replaced}
    # False for a stage takes a flag of all stages away, else what would be asked for. Submitit fills in what is absent.
    left_out = {name for name, value in {**resources.flags, **profile.flags}.items() if value is False}
    parameters |= dict.fromkeys({name.replace("-", "_") for name in left_out} & {*parameters, "nodes"})
    return parameters | {"additional_parameters": own | flags}


def array_text(tasks: Sequence[int], parallel: int) -> str:
    """Indices as sbatch --array takes them, of which `parallel` run at once.

    >>> array_text([0, 1, 2, 5], parallel=3)
    '0-2,5%3'
    """
    return f"{expression_of(tasks)}%{min(parallel, len(tasks))}"


def dependency_text(after: Sequence[str], same_task_of: Sequence[str]) -> str:
    """Jobs to wait for as sbatch --dependency takes them.

    >>> dependency_text(after=["12_0"], same_task_of=["13"])
    'afterok:12_0,aftercorr:13'

    Args:
        after: Slurm's ids of tasks that must end well before any task begins.
        same_task_of: Slurm's ids of arrays whose task of the same index must end well before a task begins.
    """
    kinds = {"afterok": after, "aftercorr": same_task_of}
    return ",".join(":".join((kind, *jobs)) for kind, jobs in kinds.items() if jobs)


def lead_for(profile_s: int, checkpoints: Iterable[Mapping[str, float] | None], minutes: int) -> int:
    """Seconds of warning before the time limit: four times the longest measured save and half a minute, at least one.

    Args:
        profile_s: what the profile says, which counts where nothing was measured.
        checkpoints: what saving cost each run, from its heartbeat.
        minutes: the time limit; the warning comes in its second half.
    """
    saves_s = [found["seconds"] for found in checkpoints if found and found.get("saves")]
    lead = max(SHORTEST_LEAD_S, int(4 * max(saves_s)) + 30) if saves_s else profile_s
    return min(lead, 30 * minutes)
