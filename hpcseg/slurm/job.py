"""Which Slurm job this process belongs to, what Slurm says about it now, and how it goes back to the queue."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcseg.slurm.calls import CallError, call, unix_time

REQUEUE_S = 8.0  # a job that was asked to end has some seconds left; KillWait is 30 s where nobody changed it
REQUEUE_TIMEOUT_S = 5.0  # of one call
# What a batch script writes for `SlurmJob.task`.
TASK_IN_SHELL = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"


@dataclass(frozen=True)
class SlurmJob:
    """One task of an array, as its own environment says.

    Attributes:
        task: "12_3", the array's id and the index. Never SLURM_JOB_ID, which of an array's last task means the array.
        name: of the job: holds the array's tag.
        restart: how often it was requeued.
        node: the first of its nodes.
        nodes: how many.
        gpus: in all.
        memory_mb: of each node, however it was asked for; 0 where the environment does not say.
        partition: that it runs in.
        end: Unix time of its limit; 0 where the environment does not say.
    """

    task: str
    name: str = ""
    restart: int = 0
    node: str = ""
    nodes: int = 1
    gpus: int = 0
    memory_mb: int = 0
    partition: str = ""
    end: int = 0

    @property
    def index(self) -> int:
        """Of the task in its array."""
        return int(self.task.rpartition("_")[2])


@dataclass(frozen=True)
class JobFacts:
    """What `scontrol show job` says about a job.

    Attributes:
        state: RUNNING, COMPLETING, ...
        reason: TimeLimit, ...; "None" where there is none.
        restarts: how often it was requeued, a requeue under way included.
        preempted: whether it was asked to make room.
        start: Unix time of its beginning; None where it did not begin.
        end: Unix time of its limit; None where it has none.
    """

    state: str
    reason: str = ""
    restarts: int = 0
    preempted: bool = False
    start: float | None = None
    end: float | None = None

    @property
    def may_be_requeued(self) -> bool:
        """Whether it runs, or is ended for its time alone; not if it is cancelled or requeued already."""
        return self.state == "RUNNING" or self.reason == "TimeLimit"


def slurm_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The Slurm job of a process with this environment; None outside Slurm."""
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        return None
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    nodes = _number(environment, "SLURM_JOB_NUM_NODES") or 1
    return SlurmJob(
        task=f"{array}_{index}" if array and index else job,
        name=environment.get("SLURM_JOB_NAME", ""),
        restart=_number(environment, "SLURM_RESTART_COUNT"),
        node=environment.get("SLURMD_NODENAME", ""),
        nodes=nodes,
        gpus=_number(environment, "SLURM_GPUS_ON_NODE") * nodes,
        memory_mb=_number(environment, "SLURM_MEM_PER_NODE")
        or _number(environment, "SLURM_MEM_PER_CPU") * _number(environment, "SLURM_CPUS_ON_NODE")
        or _number(environment, "SLURM_MEM_PER_GPU") * _number(environment, "SLURM_GPUS_ON_NODE"),
        partition=environment.get("SLURM_JOB_PARTITION", ""),
        end=_number(environment, "SLURM_JOB_END_TIME"),
    )


def ask_about(task: str) -> JobFacts | None:
    """What Slurm says about a job; None where it does not answer."""
    try:
        return parse_facts(call("scontrol", "show", "job", "--oneliner", task))
    except CallError:
        return None


def parse_facts(text: str) -> JobFacts | None:
    """Facts from the output of `scontrol show job --oneliner`; None where it is something else. Pure."""
    values = dict(re.findall(r"(\w+)=(\S*)", text))
    if "JobState" not in values:
        return None
    return JobFacts(
        state=values["JobState"],
        reason=values.get("Reason", ""),
        restarts=_number(values, "Restarts"),
        preempted=unix_time(values.get("PreemptTime", "")) is not None,
        start=unix_time(values.get("StartTime", "")),
        end=unix_time(values.get("EndTime", "")),
    )


def can_requeue() -> bool:
    """Whether a job can be handed back from here; in a container Slurm's commands are often missing."""
    return shutil.which("scontrol") is not None


def requeue(task: str, memory_mb: int | None = None, exclude: Sequence[str] = (), wait_s: float = REQUEUE_S) -> str:
    """Put the job `task` ("12_3": array and index) back into the queue, if asked with more memory or without nodes.

    Slurm takes changes only of jobs that wait, so the job is requeued first; it begins to end at once. What Slurm does
    not do at once is tried again for `wait_s` seconds.

    Returns:
        What was done, and which of the changes Slurm did not take, in a line.

    Raises:
        CallError: the job is not requeued.
    """
    _scontrol(wait_s, "requeue", task)
    done = ["requeued"]
    changes = {} if memory_mb is None else {f"MinMemoryNode={memory_mb}": f"with {memory_mb} MB"}
    if exclude:
        changes[f"ExcNodeList={','.join(exclude)}"] = f"without {', '.join(exclude)}"
    for change, words in changes.items():
        try:
            _scontrol(REQUEUE_S, "update", f"JobId={task}", change)
            done.append(words)
        except CallError as error:
            done.append(f"not {words}: {error}")
    return ", ".join(done)


def _scontrol(wait_s: float, *arguments: str) -> None:
    """Call scontrol again and again until it succeeds, for so long; seldom where that is long."""
    until, pause_s = time.monotonic() + wait_s, 0.2 if wait_s <= REQUEUE_S else 2.0
    while True:
        try:
            call("scontrol", *arguments, timeout_s=REQUEUE_TIMEOUT_S)
        except CallError as error:
            if error.failure == "absent" or time.monotonic() > until:
                raise
            time.sleep(pause_s)
        else:
            return


def _number(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "")
    return int(text) if text.isdigit() else 0
