"""What the doctor says of facts, each of them as good as it can be but for one; and what it reads of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcseg.submit.doctor import CLOCK_S, Facts, examine, read_facts
from tests.commandline import call

WELL = Facts(
    code="0.1.0",
    python="3.13.7, /usr/bin/python3",
    packages={"torch": "2.13.0"},
    unmet=(),
    torch="2.13.0, CUDA 12.6",
    torch_fails=False,
    gpus=("H100 (80 GiB)",),
    driver=True,
    triton=True,
    slurm="cluster alps",
    slurm_fails=False,
    cores=16,
    memory=64.0,
    runs=Path("/project/runs"),
    writable=True,
    refused="",
    locks=True,
    free=500.0,
    free_files=10_000_000,
    clock=1_800_000_000.0,
    clock_off=0.01,
)


def test_where_all_is_well_nothing_is_advised() -> None:
    assert {finding.state for finding in examine(WELL)} == {"ok"}
    assert {finding.advice for finding in examine(WELL)} == {""}


@pytest.mark.parametrize(
    ("changed", "what", "state", "found", "advice"),
    [
        ({"unmet": ("h5py 3.1 is not >=3.15",)}, "packages", "problem", "h5py 3.1", "again into this environment"),
        ({"torch_fails": True, "torch": "cannot be imported (x)"}, "torch", "problem", "cannot", "pip install torch"),
        ({"gpus": ()}, "GPU", "problem", "torch sees no GPU", "a torch with CUDA that fits the driver"),
        ({"gpus": (), "driver": False}, "GPU", "ok", "compute on the CPU", ""),
        ({"triton": False}, "GPU", "note", "H100", "C compiler"),
        ({"slurm_fails": True, "slurm": "no answer"}, "Slurm", "problem", "no answer", "--on local"),
        ({"slurm": ""}, "Slurm", "ok", "uses this machine", ""),
        ({"writable": False}, "folder of runs", "problem", "/project/runs: not writable", "--runs"),
        ({"refused": "/project: others may"}, "folder of runs", "problem", "/project: others may", "chmod go-w"),
        ({"locks": False}, "folder of runs", "problem", "no locks", "another --runs"),
        ({"locks": None}, "folder of runs", "ok", "/project/runs", ""),
        ({"free": 0.2}, "disk", "problem", "0.2 GiB free", "free some"),
        ({"free_files": 12}, "disk", "problem", "12 files", "free some"),
        ({"free": 5.0}, "disk", "note", "5.0 GiB free", "before many runs"),
        ({"free_files": None}, "disk", "ok", "500.0 GiB free", ""),
        ({"clock": 0.0}, "clock", "problem", "1970", "set it"),
        ({"clock_off": -2 * CLOCK_S}, "clock", "note", "-10 s", "time server"),
        ({"clock_off": None}, "clock", "ok", "2027", ""),
    ],
)
def test_one_thing_that_is_wrong_is_named_with_what_to_do(
    changed: dict[str, Any], what: str, state: str, found: str, advice: str
) -> None:
    findings = {finding.what: finding for finding in examine(replace(WELL, **changed))}
    one = findings.pop(what)
    assert (one.state, bool(one.advice)) == (state, bool(advice))
    assert found in one.found and advice in one.advice
    assert {other.state for other in findings.values()} == {"ok"}


def test_this_machine_is_read(tmp_path: Path, slurm_tools: Callable[..., Path]) -> None:
    slurm_tools(sbatch="exit 1", scontrol="echo down >&2; exit 1", sinfo="exit 1")
    (tmp_path / "runs").mkdir(mode=0o777)
    (tmp_path / "runs").chmod(0o777)
    facts = read_facts(tmp_path / "runs")
    assert facts.slurm_fails and "down" in facts.slurm
    assert facts.refused.startswith(f"{tmp_path}/runs: others may write here")
    assert facts.locks and facts.writable and not facts.torch_fails and abs(facts.clock_off or 0) < 60
    assert {"torch", "numpy"} <= facts.packages.keys() and facts.unmet == ()
    assert read_facts(tmp_path / "later" / "runs").runs == tmp_path


def test_the_command_ends_with_1_where_there_is_a_problem(tmp_path: Path, slurm_tools: Callable[..., Path]) -> None:
    slurm_tools(sbatch="exit 1", scontrol="exit 1")
    done = call(tmp_path, "doctor", "--json")
    assert done.returncode == 1
    assert {one["what"] for one in json.loads(done.stdout) if one["state"] == "problem"} == {"Slurm"}
