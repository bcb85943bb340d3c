from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.slurm import job
from hpcseg.slurm.calls import CallError
from hpcseg.slurm.job import JobFacts, SlurmJob, parse_facts, requeue, slurm_job
from tests.waiting import Clock

SHOWN = (
    "JobId=7 ArrayJobId=4 ArrayTaskId=2 JobName=hpcseg-train-3f9a2c1b UserId=a(1) JobState=RUNNING Reason=None "
    "Dependency=(null) Requeue=1 Restarts=1 BatchFlag=1 ExitCode=0:0 StartTime=2026-11-23T08:58:31 "
    "EndTime=2026-11-23T08:59:01 Deadline=N/A PreemptEligibleTime=2026-11-23T08:58:31 PreemptTime={} Comment=a b=c"
)


def test_a_job_is_named_by_array_and_index_never_by_its_own_id() -> None:
    environment = {
        **{"SLURM_JOB_ID": "4", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"},
        **{"SLURM_JOB_NAME": "hpcseg-train-3f9a2c1b", "SLURMD_NODENAME": "n1", "SLURM_JOB_NUM_NODES": "2"},
        **{"SLURM_GPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "800", "SLURM_JOB_PARTITION": "main"},
    }
    expected = SlurmJob("4_2", "hpcseg-train-3f9a2c1b", 1, "n1", nodes=2, gpus=8, memory_mb=800, partition="main")
    assert slurm_job(environment) == expected and expected.index == 2
    assert slurm_job({"SLURM_JOB_ID": "9"}) == SlurmJob("9") and slurm_job({}) is None


def test_memory_is_that_of_a_node_however_it_was_asked_for() -> None:
    here = {"SLURM_JOB_ID": "9", "SLURM_CPUS_ON_NODE": "8", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_END_TIME": "1700"}
    found = [slurm_job(here | asked) for asked in ({"SLURM_MEM_PER_CPU": "2000"}, {"SLURM_MEM_PER_GPU": "64000"})]
    assert [(job.memory_mb, job.end) for job in found if job] == [(16_000, 1700), (128_000, 1700)]


def test_what_slurm_says_about_a_job() -> None:
    end = time.mktime((2026, 11, 23, 8, 59, 1, 0, 0, -1))
    assert parse_facts(SHOWN.format("None")) == JobFacts("RUNNING", "None", 1, preempted=False, start=end - 30, end=end)
    preempted = parse_facts(SHOWN.format("2026-11-23T08:58:41"))
    assert preempted is not None and preempted.preempted and preempted.may_be_requeued
    endless = parse_facts("JobState=COMPLETING Reason=TimeLimit EndTime=Unknown")
    assert endless is not None and endless.end is None and endless.may_be_requeued
    cancelled = parse_facts("JobState=COMPLETING Reason=None")
    assert cancelled is not None and not cancelled.may_be_requeued
    assert parse_facts("slurm_load_jobs error: Invalid job id specified") is None


def test_a_job_is_requeued_first_and_changed_then(slurm_tools: Callable[..., Path]) -> None:
    log = slurm_tools() / "calls"
    slurm_tools(scontrol=f'echo "$@" >> {log}')
    assert requeue("4_2") == "requeued"
    assert requeue("4_2", 1500, ["n1", "n2"]) == "requeued, with 1500 MB, without n1, n2"
    assert log.read_text().splitlines() == [
        "requeue 4_2",
        "requeue 4_2",
        "update JobId=4_2 MinMemoryNode=1500",
        "update JobId=4_2 ExcNodeList=n1,n2",
    ]


def test_what_slurm_does_not_take_is_tried_again_and_then_said(
    slurm_tools: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "time", Clock())
    once = slurm_tools() / "once"
    slurm_tools(scontrol=f"mkdir {once} 2>/dev/null && exit 1\n[ $1 = requeue ] || {{ echo busy >&2; exit 1; }}")
    assert requeue("4_2", 1500) == "requeued, not with 1500 MB: busy"
    slurm_tools(scontrol="echo 'Job/step already completing' >&2; exit 1")
    with pytest.raises(CallError, match="already completing"):
        requeue("4_2", 1500)
