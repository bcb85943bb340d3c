from __future__ import annotations

import time

from hpcseg.slurm.job import JobFacts, SlurmJob, parse_facts, slurm_job

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
    assert slurm_job(environment) == expected
    assert slurm_job({"SLURM_JOB_ID": "9"}) == SlurmJob("9") and slurm_job({}) is None


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
