"""`kernels` of a profile reaches the stage: by job.json, on this machine, on Slurm and by hand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hpcseg import kernels
from hpcseg.files import write_text
from hpcseg.jobs import entry
from hpcseg.runs.records import ArrayRecord, Asked, Kernels, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.study.plan import Plan
from hpcseg.submit import apply, arrays
from hpcseg.submit.profile import LocalProfile, SlurmProfile
from hpcseg.training import stages


@pytest.fixture
def pretraining(plan_study: Callable[..., Plan]) -> RunDir:
    """A planned pretraining with its run.json on disk."""
    plan = plan_study("strategy=transfer")
    run_id = next(iter(plan.of_stage("pretrain")))
    run = plan.run(run_id)
    run.path.mkdir(parents=True)
    write_text(run.path / "run.json", plan.stages[run_id].spec.model_dump_json())
    return run


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(("recorded", "own"), [("auto", True), ("trial", True), ("torch", False), (None, True)])
def test_a_stage_runs_with_the_kernels_that_its_job_says(
    recorded: Kernels | None, own: bool, by_hand: bool, pretraining: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "triton_works", lambda: True)  # it asks the GPU
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # which would outlive the test
    found: list[tuple[bool, bool]] = []
    gpu = torch.device("cuda")
    monkeypatch.setattr(stages, "train", lambda *_: found.append((kernels.run_on(gpu), kernels.may_try())))
    if recorded is not None:
        pretraining.write_submission(Submission(backend="foreground", submitted=time.time(), kernels=recorded))
    assert entry.execute(pretraining, as_job=not by_hand) == "done"
    assert found == [(own, recorded == "trial")]
    assert kernels.run_on(gpu) and not kernels.may_try()  # and nothing beyond


@pytest.mark.parametrize("wanted", ["auto", "trial", "torch"])
def test_both_kinds_of_jobs_record_them(wanted: Any) -> None:
    local = apply._local_submission(LocalProfile(threads=1, pack_workers=1, kernels=wanted), "train")
    asked = Asked(minutes=1, memory_mb=1)
    process = Process(pid=1, pid_start=0.0)
    facts: dict[str, Any] = {"submitted": 0.0, "host": socket.gethostname(), "submitter": process, "asked": asked}
    array = ArrayRecord(tag="train-1", stage="train", runs=("a",), tasks=(0,), **facts)
    assert local.kernels == arrays._submission(array, 0, SlurmProfile(kernels=wanted)).kernels == wanted


def test_a_job_of_an_earlier_version_goes_on_with_those_that_are_fastest() -> None:
    assert Submission.model_validate({"backend": "local", "submitted": 1.0}).kernels == "auto"
