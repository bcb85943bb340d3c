from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, HpcsegError
from hpcseg.sweeps import entry
from hpcseg.sweeps.entry import run_stage
from hpcseg.sweeps.plan import Plan
from hpcseg.sweeps.records import Process, Submission
from hpcseg.sweeps.rundir import RunDir

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


def start(run: RunDir) -> subprocess.Popen[str]:
    script = f"from hpcseg.sweeps.entry import run_stage; print(run_stage({str(run.path)!r}))"
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


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
    assert process.communicate(timeout=30)[0].strip() == "stopped"
    heartbeat = long_pack.heartbeat()
    assert heartbeat is not None and heartbeat.state == "stopped"
    assert long_pack.failure() is None and not long_pack.is_done()


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
    assert again.communicate(timeout=30)[0].strip() == "stopped"


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
    assert start(long_pack).communicate(timeout=30)[0].strip() == "stopped"


def test_what_submitit_runs_after_a_requeue_is_the_same_function(pack_run: RunDir) -> None:
    delayed = run_stage.checkpoint(str(pack_run.path))  # type: ignore[attr-defined]
    assert delayed.function is run_stage and delayed.args == (str(pack_run.path),)


def test_a_run_by_hand_heeds_no_old_pool_and_no_old_cancellation(pack_run: RunDir) -> None:
    pool = Process(pid=1, pid_start=-1.0)
    submission = Submission(backend="local", submitted=0.0, host=socket.gethostname(), pool=pool, cancelled=1.0)
    pack_run.write_submission(submission)
    assert run_stage(str(pack_run.path)) == "stopped"
    assert entry.execute(pack_run) == "done"
