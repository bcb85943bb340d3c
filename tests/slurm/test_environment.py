"""What Slurm's commands and jobs see of the environment: every variable that Slurm knows is set to what harms."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpcseg.runs.states import read_states
from hpcseg.slurm.accounting import read_accounts
from hpcseg.slurm.calls import environment
from hpcseg.slurm.commands import read_cluster, slurm_available
from hpcseg.slurm.job import ask_about
from hpcseg.slurm.nodes import read_nodes
from hpcseg.slurm.queue import read_queue
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.actions import cancel
from hpcseg.submit.apply import apply
from tests.slurm.cluster import Cluster
from tests.slurm.profiles import profile_of
from tests.slurm.variables import VARIABLES

MEANT = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}  # which Slurm
HARM = {
    **dict.fromkeys(VARIABLES, "1"),
    **dict.fromkeys((name for name in VARIABLES if name.endswith("FORMAT")), "%s"),
    "SBATCH_EXPORT": "NONE",
    "SLURM_EXPORT_ENV": "NONE",
    "SRUN_EXPORT_ENV": "NONE",
    "SBATCH_PARTITION": "high",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_OUTPUT": "/dev/null",
    "SBATCH_NO_REQUEUE": "yes",
    "SLURM_TIME_FORMAT": "%c",
    "SQUEUE_STATES": "SUSPENDED",
    "SQUEUE_PARTITION": "high",
    "SQUEUE_USERS": "nobody",
    "SCANCEL_STATE": "SUSPENDED",
    "SCANCEL_PARTITION": "high",
    "SINFO_PARTITION": "high",
    "SACCT_FORMAT": "JobID",
}


@pytest.mark.parametrize("name", VARIABLES)
def test_of_slurms_own_variables_calls_see_what_is_meant_alone(name: str) -> None:
    seen = environment({name: "harm", "HOME": "/h"})
    assert seen.pop("HOME") == "/h"
    assert ("harm" in seen.values()) == (name in MEANT)
    assert environment({}) == {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}


def test_whatever_the_user_set_jobs_are_seen_begun_and_cancelled_as_the_profile_says(
    slurm: Cluster, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*overrides: str) -> Plan:
        path = tmp_path / "study.toml"
        path.write_text((Path(__file__).parents[1] / "study.toml").read_text())
        made = make_plan(read_sweep(path, overrides), tiny_dataset.parent, tmp_path / "runs")
        return Plan(made.sweep, made.runs_root, made.of_stage("pack"), {})

    for name in HARM.keys() - MEANT:
        monkeypatch.setenv(name, HARM[name])
    assert slurm_available() and read_cluster().max_array_size == 1001 and len(read_nodes("main")) == 3
    packs = plan()
    (pack,) = packs.stages
    apply(packs, "slurm", profile_of(partition="main", flags={"begin": "now+1hour"}))
    verdict = read_states([packs.run(pack)]).verdicts[pack]
    assert verdict.state == "queued"
    slurm.wait(lambda: read_queue().jobs[verdict.job].reason == "BeginTime")
    shown = slurm.call("scontrol", "show", "job", verdict.job)
    assert "Partition=main" in shown and "TimeLimit=01:00:00" in shown and "Requeue=1" in shown
    facts = ask_about(verdict.job)
    assert facts is not None and facts.start is not None and facts.start > time.time() + 1800
    assert cancel(packs.runs_root, pack) == [pack]
    slurm.wait(lambda: not read_queue().jobs)
    # The same without a wait, by a profile that exports nothing: the job has what it needs all the same.
    outcome = apply(plan(), "slurm", profile_of(flags={"export": "NONE"}))
    assert outcome.submitted == (pack,)
    slurm.wait(lambda: not read_queue().jobs)
    assert packs.run(pack).is_done(), _log(packs)


def _log(plan: Plan) -> str:
    return "\n".join(path.read_text() for path in plan.runs_root.glob("slurm/*/*_log.*"))


def test_accounting_is_read_whatever_the_user_set(
    accounted: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = accounted.call("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 3").strip()
    for name in HARM.keys() - MEANT:
        monkeypatch.setenv(name, HARM[name])
    accounted.wait(lambda: job in read_accounts([job]))
    assert "FAILED with exit code 3" in read_accounts([job])[job].words
