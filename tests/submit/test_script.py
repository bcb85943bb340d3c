from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcseg.runs.records import ArrayRecord, Asked, Process
from hpcseg.submit.profile import Profile, SlurmProfile
from hpcseg.submit.script import (
    array_text,
    dependency_text,
    job_parameters,
    lead_for,
    script_text,
)


def profile_of(**slurm: Any) -> SlurmProfile:
    return Profile.model_validate({"slurm": slurm}).slurm


def record_of(stage: str = "train", tasks: tuple[int, ...] = (0, 1, 3), **asked: Any) -> ArrayRecord:
    return ArrayRecord(
        tag=f"{stage}-0123abcd",
        stage=stage,
        runs=tuple(f"run{task}" for task in tasks),
        tasks=tasks,
        submitted=0.0,
        host="login1",
        submitter=Process(pid=1, pid_start=1.0),
        asked=Asked(**{"minutes": 60, "memory_mb": 32768, **asked}),
    )


def test_the_script_of_an_array_in_full() -> None:
    profile = profile_of(
        partition="gpu",
        account="a1",
        setup=["module load cuda"],
        python="/opt/python",
        flags={"qos": "long"},
        train={"time": 60, "cpus": 4, "gpus": 1, "array_parallelism": 2, "flags": {"mail_type": "END"}},
    )
    at = "/r/slurm/train-0123abcd"
    text = script_text(profile, record_of(), Path(at), lead_s=90, dependency="afterok:12_0,aftercorr:13")
    assert text.splitlines() == [
        "#!/bin/bash",
        "",
        "# Parameters",
        "#SBATCH --account=a1",
        "#SBATCH --array=0-1,3%2",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --dependency=afterok:12_0,aftercorr:13",
        "#SBATCH --error=/r/slurm/train-0123abcd/%A_%a_0_log.err",
        "#SBATCH --export=ALL",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --job-name=hpcseg-train-0123abcd",
        "#SBATCH --kill-on-invalid-dep=yes",
        "#SBATCH --mail-type=END",
        "#SBATCH --mem=32768M",
        "#SBATCH --nodes=1",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/r/slurm/train-0123abcd/%A_%a_0_log.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=long",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@90",
        "#SBATCH --time=60",
        "",
        "# setup",
        f'began=$(cd {at} && stat -c %n=%s "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"_*_log.err 2>/dev/null)',
        f'cp -n {at}/task.pkl {at}/"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}_submitted.pkl"',
        "module load cuda",
        "terminated=; trap terminated=yes TERM",
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        f"srun --unbuffered --output {at}/%A_%a_%t_log.out --error {at}/%A_%a_%t_log.err "
        "--cpus-per-task=4 --export=ALL /opt/python -P -u -m hpcseg.jobs.start /r/slurm/train-0123abcd",
        "",
        "",
        "# teardown",
        f'code=$?; [ "$code$terminated" = 0 ] || ! /opt/python -P -m hpcseg.jobs.aftermath {at} $code $began '
        "|| code=0; exit $code",
    ]


@pytest.mark.parametrize(("srun", "aftermath", "code"), [(0, 1, 0), (137, 1, 137), (137, 0, 0)])
def test_a_job_ends_well_where_srun_does_or_the_run_is_done_all_the_same(srun: int, aftermath: int, code: int) -> None:
    text = script_text(profile_of(python="after"), record_of(), Path("/r"), lead_s=90)
    teardown = text.rpartition("# teardown\n")[2]
    script = f"after() {{ return {aftermath}; }}\n(exit {srun})\n{teardown}"
    assert subprocess.run(["bash", "-c", script], check=False).returncode == code


def test_a_container_stands_before_the_jobs_python_and_not_before_what_calls_slurm() -> None:
    folder = Path("/r/a folder/train-0123abcd")
    text = script_text(profile_of(container="apptainer exec --nv x.sif"), record_of(), folder, lead_s=90)
    (srun,) = [line for line in text.splitlines() if line.startswith("srun")]
    assert "apptainer exec --nv x.sif python -P -u -m hpcseg.jobs.start '/r/a folder/train-0123abcd'" in srun
    assert f"|| ! {shlex.quote(sys.executable)} -P -m hpcseg.jobs.aftermath" in text
    own = profile_of(container="apptainer exec x.sif", python="/venv/bin/python")
    assert own.job_python == "apptainer exec x.sif /venv/bin/python"
    assert profile_of().job_python == profile_of().script_python == shlex.quote(sys.executable)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_slurm_does_not_replace_what_follows_a_percent_sign_of_the_folder() -> None:
    text = script_text(profile_of(), record_of(), Path("/r/50%A/train-0123abcd"), lead_s=90)
    assert "#SBATCH --output=/r/50%%A/train-0123abcd/%A_%a_0_log.out" in text
    assert "--error /r/50%%A/train-0123abcd/%A_%a_%t_log.err" in text and "cp -n /r/50%A/train" in text


def test_a_job_of_several_gpus_or_nodes_has_a_task_for_each_and_ends_with_the_first_that_fails() -> None:
    profile = profile_of(train={"gpus": 4, "nodes": 2}, pretrain={"gpus": 0, "nodes": 2}, pack={"gpus": 0})
    train, pretrain, pack = (
        job_parameters(profile, record_of(stage), lead_s=9) for stage in ("train", "pretrain", "pack")
    )
    assert (train["nodes"], train["ntasks_per_node"], train["gpus_per_node"]) == (2, 4, 4)
    assert train["srun_args"] == ["--cpus-per-task=8", "--export=ALL", "--kill-on-bad-exit=1"]
    assert (pretrain["nodes"], pretrain["ntasks_per_node"]) == (2, 1) and "gpus_per_node" not in pretrain
    assert "ntasks_per_node" not in pack and pack["srun_args"] == ["--cpus-per-task=8", "--export=ALL"]
    assert not {"dependency", "kill-on-invalid-dep"} & pack["additional_parameters"].keys()


def test_what_the_profile_asks_for_by_hand_replaces_what_would_be_asked_for() -> None:
    flags = {"gpus-per-node": "a100:1", "--mem_per_cpu": "4G", "exclusive": True, "nice": 100, "requeue": False}
    parameters = job_parameters(profile_of(flags=flags), record_of(exclude=("n1", "n2")), lead_s=9)
    assert parameters["additional_parameters"] == {
        "array": "0-1,3%3",
        "export": "ALL",
        "requeue": True,
        "gpus-per-node": "a100:1",
        "mem-per-cpu": "4G",
        "exclusive": True,
        "nice": 100,
    }
    assert parameters["exclude"] == "n1,n2" and not {"gpus_per_node", "mem"} & parameters.keys()


def test_false_takes_away_what_a_site_forbids() -> None:
    flags = {"mem": False, "gpus-per-node": False, "time": False, "wckey": False, "nice": 5}
    given = profile_of(flags=flags, train={"flags": {"nice": False}})
    text = script_text(given, record_of(), Path("/runs/slurm/x"), lead_s=9)
    assert not re.search("^#SBATCH --(mem|gpus|time|wckey|nice)", text, re.MULTILINE)
    assert "--gpus-per-node=1" in script_text(
        profile_of(flags={"gpus-per-node": "a100:1"}, train={"flags": {"gpus-per-node": False}}),
        record_of(),
        Path("/runs/slurm/x"),
        lead_s=9,
    )


@pytest.mark.parametrize(
    ("tasks", "parallel", "text"),
    [((0,), 8, "0%1"), ((3, 1, 0, 2), 2, "0-3%2"), ((0, 2, 3, 7), 64, "0,2-3,7%4")],
)
def test_indices_are_written_as_ranges(tasks: tuple[int, ...], parallel: int, text: str) -> None:
    assert array_text(tasks, parallel) == text


def test_dependencies_are_written_kind_by_kind() -> None:
    assert dependency_text(["1_0", "2_3"], ["7", "8"]) == "afterok:1_0:2_3,aftercorr:7:8"
    assert dependency_text([], ["7"]) == "aftercorr:7"


def test_the_warning_comes_early_enough_for_the_longest_save_that_was_measured() -> None:
    def saved(seconds: float, saves: int = 3) -> dict[str, float]:
        return {"saves": saves, "seconds": seconds, "last_seconds": 0.1, "bytes": 10}

    assert lead_for(300, [], 600) == lead_for(300, [None, saved(0.0, saves=0)], 600) == 300
    assert lead_for(300, [saved(0.5), None, saved(2.0)], 600) == 60
    assert lead_for(300, [saved(2.0), saved(100.0)], 600) == 430
    assert lead_for(300, [saved(100.0)], 10) == 300  # half of the time at most
