from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.runs.evidence import State
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.study.plan import Plan
from hpcseg.submit.apply import Outcome, apply
from hpcseg.submit.profile import LocalProfile, Profile
from hpcseg.submit.slots import Event, visible_gpus
from tests.waiting import PATIENCE_S

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
TWO_SLOTS = Profile(local=LocalProfile(slots=2, threads=1, pack_workers=1))
Waiter = Callable[..., None]
Starter = Callable[..., "subprocess.Popen[str]"]


def applied(plan: Plan, events: list[Event] | None = None) -> Outcome:
    return apply(plan, "local", TWO_SLOTS, ([] if events is None else events).append)


def state_of(run: RunDir) -> State:
    return read_states([run]).verdicts[run.id].state


def test_applying_again_submits_nothing_and_a_deleted_run_alone_is_repeated(plan_packs: Callable[..., Plan]) -> None:
    events: list[Event] = []
    plan = plan_packs([4.0, 5.0])
    first = applied(plan, events)
    assert sorted(first.submitted) == sorted(plan.stages) and not first.failed
    for run_id in plan.stages:
        states = [event.state for event in events if event.run_id == run_id]
        assert list(dict.fromkeys(states)) == ["new", "queued", "running", "done"]
    again = plan_packs([4.0, 5.0])
    assert again.counts()["pack"] == {"done": 2}
    assert applied(again).submitted == ()
    one, _other = plan.stages
    shutil.rmtree(plan.run(one).path)
    assert applied(plan_packs([4.0, 5.0])).submitted == (one,)


def test_a_folder_that_no_batch_script_can_name_is_refused_before_anything_is_written(
    plan_packs: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = replace(plan_packs([4.0]), runs_root=tmp_path / "runs\ntouch x")
    with pytest.raises(BadInput, match=r"runs\\ntouch x': no batch script can name a folder with a line break"):
        apply(plan, "slurm", Profile())
    assert not plan.runs_root.exists()


def test_a_failed_stage_blocks_what_needs_it_and_nothing_else(
    plan_study: Callable[..., Plan], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    image = data / "imagesTr" / "case_001.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[:-500])  # the header is sound: only reading it all shows
    plan = plan_study(data=tmp_path / "data")
    outcome = applied(plan)
    pack, train = plan.stages
    assert outcome.verdicts[pack].state == "failed" and outcome.verdicts[train].state == "blocked"
    assert "case_001.nii.gz" in outcome.failed[pack] and "case_001.nii.gz" in outcome.failed[train]
    assert not (plan.run(train).path / "heartbeat.json").exists()
    assert plan_study(data=tmp_path / "data").counts()["train"] == {"blocked": 1}


def test_a_bad_header_is_found_before_anything_is_written(
    plan_study: Callable[..., Plan], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    plan = plan_study(data=tmp_path / "data")
    (data / "labelsTr" / "case_002.nii.gz").write_bytes(b"not a scan")
    with pytest.raises(BadInput, match=r"case_002\.nii\.gz"):
        applied(plan)
    assert not plan.runs_root.exists()


def test_many_sweeps_at_once_submit_every_run_once(
    write_sweep: Callable[[str], Path],
    start_apply: Starter,
    plan_study: Callable[..., Plan],
    storm: Callable[[int, int], int],
) -> None:
    sweep = write_sweep(STUDY)
    processes = [start_apply(sweep) for _ in range(storm(2, 5))]
    answers = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert {process.returncode for process in processes} == {0}, answers
    found = [json.loads(out) for out, _ in answers]
    assert sorted(run for answer in found for run in answer["submitted"]) == sorted(plan_study().stages)
    assert all(answer["failed"] == {} for answer in found)


@pytest.mark.parametrize("how", ["ctrl-c", "kill -9"])
def test_a_stopped_pool_leaves_no_job_behind_and_the_same_command_goes_on(
    how: str,
    write_sweep: Callable[[str], Path],
    start_apply: Starter,
    plan_study: Callable[..., Plan],
    wait_for: Waiter,
    storm: Callable[[int, int], int],
) -> None:
    if how == "kill -9" and not storm(0, 1):
        pytest.skip("with pytest --all; tests/test_faults.py kills pools always")
    sweep, long = write_sweep(STUDY), "training.epochs=100000"
    pool = start_apply(sweep, long)
    plan = plan_study(long)
    train = plan.run(next(iter(plan.of_stage("train"))))
    wait_for(lambda: (beat := train.heartbeat()) is not None and beat.phase == "training" and beat.epoch > 1)
    assert state_of(train) == "running"
    heartbeat = train.heartbeat()
    assert heartbeat is not None
    if how == "ctrl-c":
        os.killpg(pool.pid, signal.SIGINT)  # as a terminal does: to the pool and to everything that it started
        _, message = pool.communicate(timeout=PATIENCE_S)
        assert pool.returncode == 130 and "the same command goes on from there" in message
    else:
        pool.kill()
        pool.communicate()
        wait_for(lambda: not heartbeat.alive)
    assert state_of(train) == "stopped"
    assert list(train.path.glob("checkpoint*"))
    again = start_apply(sweep, long)
    wait_for(lambda: (beat := train.heartbeat()) is not None and beat.attempt == 2 and beat.phase == "training")
    resumed = train.heartbeat()
    assert resumed is not None and resumed.step > 2
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=PATIENCE_S)
    assert state_of(train) == "stopped"


def test_a_killed_job_is_lost_and_its_dependants_wait_for_the_next_call(
    write_sweep: Callable[[str], Path],
    start_apply: Starter,
    plan_study: Callable[..., Plan],
    wait_for: Waiter,
) -> None:
    long = "training.epochs=100000"
    pool = start_apply(write_sweep(STUDY), long)
    plan = plan_study(long)
    train = plan.run(next(iter(plan.of_stage("train"))))
    wait_for(lambda: (beat := train.heartbeat()) is not None and beat.phase == "training")
    heartbeat = train.heartbeat()
    assert heartbeat is not None
    os.kill(heartbeat.pid, signal.SIGKILL)
    answer = json.loads(pool.communicate(timeout=PATIENCE_S)[0])
    assert "ended without a word" in answer["failed"][train.id]
    assert plan_study(long).counts()["train"] == {"lost": 1}


def test_gpus_are_those_that_the_caller_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert visible_gpus() == ["2", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
