from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, HpcsegError, Interrupted, RankLost
from hpcseg.heartbeat import Heartbeat
from hpcseg.jobs import entry
from hpcseg.jobs.entry import run_stage
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.records import Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import JobFacts
from hpcseg.spec import TrainSpec, spec_text
from hpcseg.study.plan import Plan
from hpcseg.training.rank_info import RankInfo
from tests.waiting import PATIENCE_S

Waiter = Callable[..., None]


@pytest.fixture
def pack_run(plan_packs: Callable[..., Plan]) -> RunDir:
    return written(plan_packs())


def written(plan: Plan) -> RunDir:
    """A planned pack with its run.json on disk."""
    (run_id,) = plan.stages
    run = plan.run(run_id)
    run.path.mkdir(parents=True)
    (run.path / "run.json").write_text(plan.stages[run_id].spec.model_dump_json())
    return run


def start(run: RunDir, **variables: str) -> subprocess.Popen[str]:
    script = "from hpcseg.jobs import entry, stopping; stopping.POLL_S = 0.05; "
    script += f"print(entry.run_stage({str(run.path)!r}))"
    environment = {**os.environ, **variables}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


# What a Slurm job finds in its environment; no Slurm answers it.
SLURM = {
    **{"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"},
    **{"SLURM_JOB_NAME": "hpcseg-pack-0badcafe", "SLURMD_NODENAME": "n1", "PATH": "/nowhere"},
}


def causes(run: RunDir) -> list[str | None]:
    return [attempt.cause for attempt in read_attempts(run.path)]


def is_packing(run: RunDir) -> bool:
    heartbeat = run.heartbeat()
    return heartbeat is not None and heartbeat.phase == "pack"


@pytest.fixture
def long_pack(plan_packs: Callable[..., Plan], write_dataset: Callable[..., Path], tmp_path: Path) -> RunDir:
    """A pack of some seconds."""
    write_dataset(tmp_path / "data" / "Tiny", training=40, test=0)
    return written(plan_packs([1.0], data=tmp_path / "data"))


def test_a_stage_runs_to_its_end_once(pack_run: RunDir) -> None:
    assert run_stage(str(pack_run.path)) == "done"
    heartbeat = pack_run.heartbeat()
    assert pack_run.is_done() and heartbeat is not None and heartbeat.state == "done"
    before = (pack_run.path / "store.h5").stat().st_mtime_ns
    assert run_stage(str(pack_run.path)) == "done"
    assert (pack_run.path / "store.h5").stat().st_mtime_ns == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_failure_is_recorded_and_raised(
    plan_packs: Callable[..., Plan], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    run = written(plan_packs(data=tmp_path / "data"))
    image = data / "imagesTr" / "case_001.nii.gz"
    image.write_bytes(image.read_bytes()[:-500])
    with pytest.raises(BadInput, match=r"case_001\.nii\.gz"):
        run_stage(str(run.path))
    failure, heartbeat = run.failure(), run.heartbeat()
    assert failure is not None and failure.cause == "input" and "case_001.nii.gz" in failure.message
    assert "Traceback" in failure.traceback
    assert heartbeat is not None and heartbeat.state == "failed"
    assert not list(run.path.glob("*.h5"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_stops_a_stage_cleanly_and_the_next_attempt_goes_on(
    long_pack: RunDir, wait_for: Waiter, number: signal.Signals
) -> None:
    process = start(long_pack)
    wait_for(lambda: is_packing(long_pack))
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE_S)[0].strip() == "stopped"
    heartbeat = long_pack.heartbeat()
    assert heartbeat is not None and heartbeat.state == "stopped"
    assert long_pack.failure() is None and not long_pack.is_done()
    (attempt,) = read_attempts(long_pack.path)
    assert (attempt.cause, attempt.detail) == ("stopped", number.name)


def test_after_a_kill_the_evidence_says_lost_and_the_run_can_be_repeated(long_pack: RunDir, wait_for: Waiter) -> None:
    process = start(long_pack)
    wait_for(lambda: is_packing(long_pack))
    process.kill()
    process.communicate()
    heartbeat = long_pack.heartbeat()
    assert heartbeat is not None and heartbeat.state == "running" and heartbeat.alive is False
    again = start(long_pack)
    wait_for(lambda: is_packing(long_pack) and (long_pack.heartbeat() or heartbeat).attempt == 2)
    again.terminate()
    assert again.communicate(timeout=PATIENCE_S)[0].strip() == "stopped"
    first, second = read_attempts(long_pack.path)
    assert (first.cause, first.ended, second.cause) == ("killed", heartbeat.time, "stopped")


def test_a_slurm_job_stops_when_a_later_attempt_wants_the_run(long_pack: RunDir, wait_for: Waiter) -> None:
    process = start(long_pack, **SLURM)
    wait_for(lambda: is_packing(long_pack))
    (long_pack.path / ".claim").write_text("7_2.1")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, "nothing begins that waits for the run"
    (attempt,) = read_attempts(long_pack.path)
    assert (attempt.cause, attempt.job, attempt.node) == ("superseded", "7_2", "n1")


def test_a_slurm_job_leaves_a_run_alone_that_was_submitted_again(
    pack_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = Submission(backend="slurm", submitted=time.time(), array="pack-00000001", task=0)
    pack_run.write_submission(submission)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HpcsegError, match="job 7_2 does nothing: the run was submitted again, as pack-00000001"):
        run_stage(str(pack_run.path))
    assert causes(pack_run) == ["superseded"] and pack_run.heartbeat() is None and not pack_run.is_done()


def test_a_job_that_cannot_claim_its_run_for_want_of_room_does_not_heed_the_claim_of_the_last_one(
    pack_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: str) -> None:
        assert path.name == ".claim"
        raise OSError(errno.ENOSPC, "No space left on device")

    (pack_run.path / ".claim").write_text("7_2.0")
    monkeypatch.setattr("hpcseg.jobs.claims.write_unsynced", full)
    for name, value in (SLURM | {"SLURM_RESTART_COUNT": "1"}).items():
        monkeypatch.setenv(name, value)
    assert run_stage(str(pack_run.path)) == "done" and not (pack_run.path / ".claim").exists()


def test_a_job_of_a_cancelled_run_ends_as_a_failure_so_that_nothing_begins_that_waits_for_it(
    pack_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = SLURM["SLURM_JOB_NAME"].removeprefix("hpcseg-")
    pack_run.write_submission(Submission(backend="slurm", submitted=0.0, array=array, task=2, cancelled=1.0))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="1"):
        run_stage(str(pack_run.path))
    assert causes(pack_run) == ["cancelled"] and pack_run.failure() is None


@pytest.mark.parametrize(("known", "expected"), [(True, "python"), (False, "killed")])
def test_a_rank_that_fails_before_all_have_met_does_not_bring_the_job_back_for_ever(
    pack_run: RunDir, monkeypatch: pytest.MonkeyPatch, known: bool, expected: str
) -> None:
    def ended(*_: object) -> None:
        if known:
            pack_run.write_error(ImportError("libcudart.so: no such file"))
        raise Interrupted("stopped before all ranks were there")

    taken_back: list[str] = []

    def take_back(*arguments: object) -> str:
        taken_back.append(str(arguments[-1]))
        return ""

    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    pack_run.write_submission(Submission(backend="slurm", submitted=0.0, array="pack-0badcafe", task=2))
    monkeypatch.setattr(entry, "_rank_info", lambda: RankInfo(rank=0, world=2))
    monkeypatch.setattr(entry, "run_spec", ended)
    monkeypatch.setattr(entry, "ask_about", lambda _: JobFacts("RUNNING", "None", 0))
    monkeypatch.setattr(entry, "can_requeue", lambda: True)
    monkeypatch.setattr(entry, "requeue_or_fail", take_back)
    assert run_stage(str(pack_run.path)) == "stopped"
    assert causes(pack_run) == [expected] and taken_back == ([] if known else ["killed"])


def test_a_run_in_use_is_not_touched(pack_run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "LOCK_WAIT_S", 0.0)
    lock = pack_run.lock(0.0)
    with pytest.raises(HpcsegError, match="another process works"):
        run_stage(str(pack_run.path))
    lock.release()
    assert pack_run.heartbeat() is None and pack_run.failure() is None


def test_a_job_stops_by_itself_when_its_pool_is_gone(long_pack: RunDir) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    pool = Process(pid=gone.pid, pid_start=1.0)
    submission = Submission(backend="local", submitted=time.time(), host=socket.gethostname(), pool=pool)
    long_pack.write_submission(submission)
    assert start(long_pack).communicate(timeout=PATIENCE_S)[0].strip() == "stopped"


def test_what_submitit_runs_after_a_requeue_is_the_same_function(pack_run: RunDir) -> None:
    delayed = run_stage.checkpoint(str(pack_run.path))  # type: ignore[attr-defined]
    assert delayed.function is run_stage and delayed.args == (str(pack_run.path),)


def test_a_run_by_hand_heeds_no_old_pool_and_no_old_cancellation(pack_run: RunDir) -> None:
    pool = Process(pid=1, pid_start=-1.0)
    submission = Submission(backend="local", submitted=0.0, host=socket.gethostname(), pool=pool, cancelled=1.0)
    pack_run.write_submission(submission)
    assert run_stage(str(pack_run.path)) == "stopped"
    assert entry.execute(pack_run) == "done"


def test_scans_that_were_changed_while_a_run_waited_are_neither_packed_nor_learnt_from_nor_measured(
    plan_study: Callable[..., Plan], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data" / "Tiny")
    plan = plan_study(data=data.parent)
    (pack, train), labels = plan.stages, sorted((data / "labelsTr").iterdir())
    for run_id in plan.stages:
        plan.run(run_id).path.mkdir(parents=True)
        (plan.run(run_id).path / "run.json").write_text(spec_text(plan.stages[run_id].spec))
    spec = plan.stages[train].spec
    assert isinstance(spec, TrainSpec)
    validates = spec.validation_scans[0].label
    learns = next(path for path in labels if path.name.removesuffix(".nii.gz") in spec.labelled.cases)
    unread = next(path for path in labels if path.name.removesuffix(".nii.gz") not in spec.labelled.cases)
    assert validates is not None

    def refused(run_id: str, path: Path) -> None:
        before = path.read_bytes()
        path.write_bytes(labels[labels.index(path) - 1].read_bytes())
        with pytest.raises(BadInput, match=rf"{path} was changed after this run was planned; hpcseg sweep plans"):
            run_stage(str(plan.run(run_id).path))
        path.write_bytes(before)

    refused(pack, learns)
    assert run_stage(str(plan.run(pack).path)) == "done"
    refused(train, validates)
    refused(train, learns)
    assert not (plan.run(train).path / "history.jsonl").exists()
    learns.unlink()  # the store has it
    assert run_stage(str(plan.run(train).path)) == "done" and unread.exists()


def test_a_lost_rank_is_no_failure_before_the_batch_script_has_said_what_follows(
    pack_run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> None:
        raise RankLost("another rank ended")

    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(entry, "run_spec", lose)
    with pytest.raises(RankLost):
        run_stage(str(pack_run.path))
    assert pack_run.failure() is None and causes(pack_run) == ["killed"]


def test_a_pack_whose_folder_of_runs_is_renamed_meanwhile_ends_and_makes_no_second_one(pack_run: RunDir) -> None:
    root = pack_run.runs_root

    def rename(beat: Heartbeat) -> None:
        if (beat.phase, beat.step) == ("pack", 1):
            root.rename(root.with_name("renamed"))

    with pytest.raises(FileNotFoundError):
        entry.execute(pack_run, rename)
    assert not root.exists()
    again = RunDir.of(root.with_name("renamed"), "pack", pack_run.id)
    assert entry.execute(again) == "done"
