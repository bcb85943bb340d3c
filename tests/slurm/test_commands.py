from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import SchedulerError
from hpcseg.slurm import commands
from hpcseg.slurm.calls import CallError
from hpcseg.slurm.commands import (
    cancel_jobs,
    cluster_for_submission,
    compact,
    may_exist,
    read_cluster,
    slurm_available,
    submit_script,
)

Tools = Callable[..., Path]


def test_jobs_of_one_array_are_named_together() -> None:
    assert compact(["7_3", "7_1", "9", "7_2", "8_5", "7_9"]) == ["9", "7_[1-3,9]", "8_[5]"]
    assert compact([]) == []


@pytest.mark.parametrize(("script", "job"), [("echo 17", "17"), ("echo '17;cluster2'", "17")])
def test_the_id_is_what_sbatch_says(script: str, job: str, slurm_tools: Tools, tmp_path: Path) -> None:
    slurm_tools(sbatch=script)
    assert submit_script(tmp_path / "script.sh") == job


@pytest.mark.parametrize(
    ("script", "words", "unsure"),
    [
        (
            "echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2; exit 1",
            "Batch job submission failed: Job violates accounting/QOS policy",
            False,
        ),
        (
            "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1",
            "Batch job submission failed: Unable to contact slurm controller",
            True,
        ),
        (
            "for n in 1 2; do echo 'sbatch: Slurm temporarily unable to accept job, sleeping and retrying' >&2; done\n"
            "exec sleep 60",
            "sbatch did not succeed in 3 s: Slurm temporarily unable to accept job, sleeping and retrying",
            True,
        ),
        ("exit 3", "sbatch failed with exit code 3", False),
        ("echo Welcome", "sbatch said what cannot be read: 'Welcome'", True),
        (None, "sbatch is not installed here", False),
    ],
)
def test_what_sbatch_says_is_passed_on_with_whether_the_job_may_exist(
    script: str | None, words: str, unsure: bool, slurm_tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "SBATCH_TIMEOUT_S", 3)
    tools = slurm_tools(**({} if script is None else {"sbatch": script}))
    if script is None:
        monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(CallError) as caught:
        submit_script(tmp_path / "script.sh")
    assert (str(caught.value), may_exist(caught.value)) == (words, unsure)


def test_a_scancel_that_fails_is_an_error_and_jobs_that_are_over_are_none(slurm_tools: Tools) -> None:
    slurm_tools(scancel="echo 'scancel: error: Kill job error on job id 7: Invalid job id specified' >&2; exit 1")
    cancel_jobs(["7"])
    slurm_tools(scancel="echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(SchedulerError, match=r"scancel failed: Access denied; the jobs 7_\[0-4\] may still run"):
        cancel_jobs([f"7_{n}" for n in range(5)])


def test_a_scancel_that_cannot_be_called_is_an_error(slurm_tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "SCANCEL_TIMEOUT_S", 0.2)
    slurm_tools(scancel="exec sleep 60")
    with pytest.raises(SchedulerError, match=r"scancel did not answer in 0\.2 s; the jobs 7 may still run"):
        cancel_jobs(["7"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SchedulerError, match=r"scancel is not installed here; the jobs 7 may still run"):
        cancel_jobs(["7"])


def test_thousands_of_single_jobs_are_cancelled_in_a_few_calls(slurm_tools: Tools) -> None:
    log = slurm_tools() / "calls"
    slurm_tools(scancel=f'echo "$@" >> {log}')
    cancel_jobs([str(n) for n in range(2500)])
    assert len(log.read_text().splitlines()) == 3
    log.write_text("")
    cancel_jobs([f"7_{n}" for n in range(0, 20000, 2)])
    assert len(log.read_text().splitlines()) == 1


def test_slurm_is_there_where_its_controller_answers(slurm_tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = slurm_tools(sbatch="exit 1", scontrol="echo 'Slurmctld(primary) at h is UP'")
    assert slurm_available() and read_cluster().max_array_size == 1001
    slurm_tools(scontrol="echo 'MaxArraySize            = 4001'")
    assert read_cluster().max_array_size == 4001
    slurm_tools(scontrol="echo 'Slurmctld(primary) at h is DOWN'; exit 1")
    assert not slurm_available()
    with pytest.raises(SchedulerError, match=r"does not answer \(scontrol failed with exit code 1\); is Slurm up\?"):
        cluster_for_submission()
    for name in ("sbatch", "scontrol"):
        (tools / name).unlink()
    monkeypatch.setenv("PATH", str(tools))
    assert not slurm_available()
    with pytest.raises(SchedulerError, match=r"there is no Slurm here .*: leave out --on slurm, or log in") as said:
        cluster_for_submission()
    assert "is Slurm up?" not in str(said.value)
