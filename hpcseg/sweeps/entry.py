"""What a job runs: one function whose only argument is a run directory.

submitit pickles `run_stage` by reference and runs the code that stands when the job starts. Signals: USR2 and SIGTERM
set a flag; the stage saves at the end of its step and raises `Interrupted`; only then is submitit's own handler called,
which requeues the job on Slurm. A killed process leaves files that the next attempt goes on from.

A job of several tasks runs the same function in each, and their ranks train together (`hpcseg.training.ranks`). Rank 0
alone holds the run's lock, writes the heartbeat and requeues the job; a rank that fails says why before the others see
that it is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hpcseg.errors import Interrupted, RankLost
from hpcseg.patches.tiers import AS_IT_COMES, Reading
from hpcseg.spec import PackSpec, PretrainSpec, TrainSpec
from hpcseg.sweeps.records import Submission
from hpcseg.sweeps.rundir import STORE_FILE, RunDir
from hpcseg.training.control import Control, Heartbeat
from hpcseg.training.seat import Seat, check_shares

LOCK_WAIT_S = 60.0  # a cancelled job may live on for some seconds while its successor starts
POOL_WATCH_S = 1.0


class _Signals:
    """Turns USR2, SIGTERM and the first Ctrl-C into a request to stop; remembers who handled them before."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.received: set[int] = set()
        self.previous: dict[int, Any] = {}

    def install(self) -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self.received:
            raise KeyboardInterrupt
        self.received.add(number)
        self.control.ask_to_stop()


def run_stage(run_dir: str) -> str:
    """Run the stage of the run directory `run_dir` to its end: "done", or "stopped" when asked to stop.

    May be called again at any time: a finished run returns at once, an interrupted one goes on from its checkpoint.

    Raises:
        HpcsegError: another process works in the directory; the run is not touched.
        Exception: whatever the stage raised, after it was recorded in `error.json`.
    """
    return execute(RunDir(Path(run_dir).resolve()), as_job=True)


def execute(
    run: RunDir,
    on_beat: Callable[[Heartbeat], None] | None = None,
    *,
    as_job: bool = False,
    reading: Reading = AS_IT_COMES,
) -> str:
    """Run a stage in this process, as the job that `job.json` tells of or by hand; see `run_stage`.

    By hand, only the number of threads and workers is taken from `job.json`; stores are read as `reading` says.
    """
    if run.is_done():
        return "done"
    seat = _seat() if as_job else Seat()
    lock = run.lock(LOCK_WAIT_S) if seat.leads else None
    try:
        if run.is_done():
            return "done"
        control = Control(run.path, on_beat=on_beat, silent=not seat.leads)
        signals = _Signals(control)
        signals.install()
        try:
            if _recorded(run, control, seat, None if as_job else reading):
                return "done"
        finally:
            signals.restore()
    finally:
        if lock is not None:
            lock.release()
    if seat.leads:
        _requeue(run, signals)
    return "stopped"


def _seat() -> Seat:
    """The place of this process among the tasks of its job; alone where submitit did not start it."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return Seat()
    from submitit import JobEnvironment

    job = JobEnvironment()
    return Seat(
        rank=job.global_rank,
        world=job.num_tasks,
        local=job.local_rank,
        host="127.0.0.1" if job.num_nodes == 1 else socket.gethostname(),
        job=f"{job.job_id}.{os.environ.get('SLURM_RESTART_COUNT', '0')}",
    )


def _checkpoint(run_dir: str) -> Any:
    """What submitit is to run when the job comes back: the same again."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(run_stage, run_dir)


run_stage.checkpoint = _checkpoint  # type: ignore[attr-defined]  # submitit looks for it by this name


def _recorded(run: RunDir, control: Control, seat: Seat, by_hand: Reading | None) -> bool:
    """Run the stage and leave evidence of how it ended; False if it was stopped. `by_hand` is None in a job."""
    try:
        spec = run.spec()
        if seat.leads:
            run.forgive()  # of an attempt that Slurm requeued: what follows is another one
        control.beat(phase="start")  # before job.json is read: whoever cancels now finds one of the two
        submission = run.submission()
        if submission is None:
            submission = Submission(backend="foreground", submitted=time.time(), reading=by_hand or AS_IT_COMES)
        elif by_hand is not None:
            submission = submission.model_copy(update={"backend": "foreground", "reading": by_hand})
        elif submission.cancelled is not None:
            raise Interrupted("cancelled before it began")
        with _watching_pool(submission, control):
            _dispatch(run, spec, submission, control, seat)
    except Interrupted:
        control.close("stopped")
        return False
    except KeyboardInterrupt:
        control.close("stopped")
        raise
    except BaseException as error:
        # Whoever lost another rank knows less than that one may have written.
        if not isinstance(error, RankLost) or (seat.leads and run.failure() is None):
            run.write_error(error)
        control.close("failed")
        raise
    control.close("done")
    return True


def _dispatch(
    run: RunDir, spec: PackSpec | PretrainSpec | TrainSpec, submission: Submission, control: Control, seat: Seat
) -> None:
    began = time.monotonic()
    if isinstance(spec, PackSpec):
        _pack(run, spec, submission, control)
        run.mark_done(seconds=round(time.monotonic() - began, 1))
        return
    check_shares(spec, seat.world)
    if submission.backend == "local":
        os.environ["CUDA_VISIBLE_DEVICES"] = submission.gpus  # before torch looks
    import torch

    torch.set_num_threads(submission.threads)
    from hpcseg.training import stages
    from hpcseg.training.checkpoint import remove_checkpoints
    from hpcseg.training.ranks import joined

    with joined(seat, run.path, control.should_stop) as ranks:
        if isinstance(spec, TrainSpec):
            from hpcseg.inference import evaluate

            stages.train(run.path, spec, control, submission.reading, ranks)
            evaluate.evaluate(run.path, spec, control, ranks)
            return
        stages.pretrain(run.path, spec, control, submission.reading, ranks)
        if ranks.leads:
            run.mark_done(seconds=round(time.monotonic() - began, 1))
            remove_checkpoints(run.path)


def _pack(run: RunDir, spec: PackSpec, submission: Submission, control: Control) -> None:
    from hpcseg.volumes.packing import pack

    def progress(done: int, cases: int, name: str) -> None:
        control.beat(phase="pack", step=done, steps=cases)

    pack(
        spec,
        run.path / STORE_FILE,
        workers=submission.workers,
        progress=progress,
        should_stop=control.should_stop,
    )


@contextmanager
def _watching_pool(submission: Submission, control: Control) -> Iterator[None]:
    """Ask the job to stop when the local pool that started it is gone, so that no job outlives it unnoticed."""
    pool = submission.pool
    if submission.backend != "local" or pool is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while pool.alive(submission.host) is not False:
            if over.wait(POOL_WATCH_S):
                return
        control.ask_to_stop()

    thread = threading.Thread(target=watch, name="pool-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _requeue(run: RunDir, signals: _Signals) -> None:
    """On Slurm, hand the saved job back to the queue, unless it is being cancelled or was requeued already.

    scancel sends SIGTERM and so does the end of a time limit; the former must not bring the job back to life.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm" or job is None:
        return
    submission = run.submission()
    if submission is not None and submission.cancelled is not None:
        return
    state = _slurm_state(job)
    if state not in {"RUNNING", ""}:
        return
    previous = signals.previous.get(signal.SIGUSR2)
    if callable(previous) and signals.received:
        # Lost if the queue was faster; the evidence then says "stopped", and applying the sweep again resumes.
        with suppress(subprocess.CalledProcessError):
            previous(signal.SIGUSR2, None)


def _slurm_state(job: str) -> str:
    """State of this job as squeue shows it; empty where squeue does not answer."""
    command = ["squeue", "--jobs", job, "--noheader", "--format=%T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
