"""What a job runs: one function whose only argument is a run directory.

Signals (USR2, SIGTERM, the first Ctrl-C), the job's own deadline and another attempt that wants the run set a flag; the
stage saves at the end of its step and raises `Interrupted`; then the job hands itself back to Slurm's queue. A killed
process leaves files that the next attempt goes on from. Every attempt is noted in attempts.jsonl.

A job of several tasks runs the same function in each, and their ranks train together (`hpcseg.training.ranks`). Rank 0
alone holds the run's lock, writes the heartbeat and requeues the job; a rank that fails says why before the others see
that it is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from hpcseg.errors import HpcsegError, Interrupted, RankLost, StageFailed
from hpcseg.files import remove_leftovers
from hpcseg.heartbeat import Heartbeat
from hpcseg.jobs.claims import claim_run, is_wanted, refuse_superseded
from hpcseg.jobs.dispatch import run_spec
from hpcseg.jobs.journal import close_attempt, close_former, log_since, open_attempt
from hpcseg.jobs.remedies import disk_words, explained
from hpcseg.jobs.requeue import check_budget, is_warning, requeue_or_fail, why_stopped
from hpcseg.jobs.stopping import Signals, watched
from hpcseg.paths import CHECKPOINT_FILE, DONE_FILE, HEARTBEAT_FILE, MODEL_FILE, RESULT_FILE, STORE_FILE
from hpcseg.runs.attempts import Attempt, Cause
from hpcseg.runs.ends import end_of
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir, cause_of
from hpcseg.slurm.job import SlurmJob, ask_about, can_requeue, slurm_job
from hpcseg.spec import AS_IT_COMES, Reading
from hpcseg.training.control import Control
from hpcseg.training.rank_info import RankInfo

LOCK_WAIT_S = 120.0  # a cancelled job may live on while its successor starts, and a dead node's lock a little longer
START = "start"  # phase before a stage has done anything
_WRITTEN = {HEARTBEAT_FILE, CHECKPOINT_FILE, MODEL_FILE, STORE_FILE, RESULT_FILE, DONE_FILE}  # by the lock's holder


@dataclass
class _Job:
    """What surrounds one attempt: `slurm` is None outside Slurm and by hand, `reading` None in a job."""

    run: RunDir
    rank_info: RankInfo
    slurm: SlurmJob | None
    reading: Reading | None
    signals: Signals
    reasons: list[str] = field(default_factory=list)  # why it asked itself to stop
    attempt: Attempt | None = None  # of rank 0
    again: bool = False  # whether it has to be requeued for the run to go on


def repeatable(function: Callable[[str], str]) -> Callable[[str], str]:
    """Have submitit run the same again when the job comes back, should a signal come before the function listens."""

    def checkpoint(argument: str) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(function, argument)

    function.checkpoint = checkpoint  # type: ignore[attr-defined]  # submitit looks for it by this name
    return function


@repeatable
def run_stage(run_dir: str) -> str:
    """Run the stage of the run directory `run_dir` to its end: "done", or "stopped" when asked to stop.

    May be called again at any time: a finished run returns at once, an interrupted one goes on from its checkpoint.

    Raises:
        HpcsegError: another process works in the directory, or another job has the run; the run is not touched.
        StageFailed: (Slurm) the job stopped, and is not to be begun again.
        SystemExit: (Slurm) the run was cancelled, or another attempt has it.
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
    """Run a stage in this process, as the job of `job.json` or by hand; see `run_stage`.

    By hand, the number of threads, workers and `kernels` are taken from `job.json`; stores are read as `reading` says.
    """
    if run.is_done():
        return "done"
    rank_info = _rank_info() if as_job else RankInfo()
    slurm = slurm_job() if as_job and os.environ.get("SUBMITIT_EXECUTOR") == "slurm" else None
    refuse_superseded(run, slurm, rank_info)
    job = _Job(run, rank_info, slurm, None if as_job else reading, Signals())
    job.signals.install()
    try:
        done = _locked(job, on_beat)
    finally:
        if slurm is None:
            job.signals.restore()
        else:
            job.signals.ignore()
    if slurm is not None and job.again:
        _go_on(job, slurm)
    elif slurm is not None and job.attempt is not None and job.attempt.cause in {"cancelled", "superseded"}:
        # As a failure: a job that ends well has those begin that wait for the run. Nothing is wrong with the stage.
        print(f"{run.id}: {job.attempt.cause}; this job goes on no more", file=sys.stderr, flush=True)
        raise SystemExit(1)
    return "done" if done else "stopped"


def _locked(job: _Job, on_beat: Callable[[Heartbeat], None] | None) -> bool:
    """Run the stage while the run directory is this process' own; False if it was stopped."""
    run, leads = job.run, job.rank_info.leads
    if leads and job.slurm is not None:
        claim_run(run, job.slurm)
    lock = _lock(run) if leads else None
    try:
        if run.is_done():
            return True
        if leads:
            refuse_superseded(run, job.slurm, job.rank_info)  # submitted again, while this one waited
            remove_leftovers(run.path, _WRITTEN)
        control = Control(run.path, on_beat=on_beat, silent=not leads)
        job.signals.attach(control)
        return _recorded(job, control)
    finally:
        if lock is not None:
            lock.release()


def _lock(run: RunDir) -> FileLock:
    """The run directory's lock.

    Raises:
        StageFailed: there is no room even for that.
        HpcsegError: another process works here.
    """
    try:
        return run.lock(LOCK_WAIT_S)
    except OSError as error:
        if cause_of(error) != "disk":
            raise
        failed = StageFailed("disk", disk_words(error, run.path))
        run.write_error(failed)
        raise failed from None


def _rank_info() -> RankInfo:
    """The place of this process among the tasks of its job; alone where submitit did not start it."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return RankInfo()
    from submitit import JobEnvironment

    job, slurm = JobEnvironment(), slurm_job()
    return RankInfo(
        rank=job.global_rank,
        world=job.num_tasks,
        local=job.local_rank,
        host="127.0.0.1" if job.num_nodes == 1 else socket.gethostname(),
        job=f"{job.job_id}.{0 if slurm is None else slurm.restart}",
    )


def _recorded(job: _Job, control: Control) -> bool:
    """Run the stage and leave evidence of how it ended; False if it was stopped."""
    run, spec = job.run, None
    try:
        spec = run.spec()
        former = []
        if job.rank_info.leads:
            former = close_former(run, job.slurm)  # while the heartbeat is still the last one's
            run.clear_failure()  # of an attempt that Slurm requeued: what follows is another one
        control.beat(phase=START)  # before job.json is read: whoever cancels now finds one of the two
        submission = run.submission()
        if submission is None:
            submission = Submission(backend="foreground", submitted=time.time(), reading=job.reading or AS_IT_COMES)
        elif job.reading is not None:
            submission = submission.model_copy(update={"backend": "foreground", "reading": job.reading})
        with ExitStack() as stack:
            pool, host = submission.pool, submission.host
            if submission.backend == "local" and pool is not None:  # no job outlives its pool unnoticed
                stack.enter_context(watched(control, None, lambda: pool.alive(host) is not False))
            if job.rank_info.leads:
                _begin(job, control, submission, former, stack)
            if submission.cancelled is not None and job.reading is None:
                raise Interrupted("cancelled before it began")
            run_spec(run, spec, submission, control, job.rank_info)
    except Interrupted:
        control.close("stopped")
        _end(job, control, *_stopped(job, control.phase))
        return False
    except KeyboardInterrupt:
        control.close("stopped")
        _end(job, control, "stopped", "interrupted by hand")
        raise
    except BaseException as error:
        failed = error if spec is None else explained(error, run.path, spec, control.phase, job.slurm is not None)
        _fail(job, control, failed)
        if failed is error:
            raise
        raise failed from error
    control.close("done")
    _end(job, control, "done", "")
    return True


def _begin(job: _Job, control: Control, submission: Submission, former: list[Attempt], stack: ExitStack) -> None:
    """Note the attempt, look whether there may be another one, and watch the clock from now on."""
    run, slurm = job.run, job.slurm
    job.attempt = open_attempt(run, slurm, control, submission)
    if slurm is None:
        return
    if former and former[-1].job == slurm.task and former[-1].cause is not None:
        check_budget(run, slurm, run.array(submission), former[-1].cause)
    facts = ask_about(slurm.task)

    def end_now() -> float | None:
        facts = ask_about(slurm.task)
        return None if facts is None else facts.end

    end = None if facts is None else facts.end
    job.reasons = stack.enter_context(watched(control, end, lambda: is_wanted(run, slurm), ask_end=end_now))


def _end(job: _Job, control: Control, cause: Cause, detail: str) -> None:
    if job.attempt is not None:
        job.attempt = close_attempt(job.run, job.attempt, control, cause, detail)


def _fail(job: _Job, control: Control, error: BaseException) -> None:
    run, rank_info = job.run, job.rank_info
    known = run.failure() if isinstance(error, RankLost) else None
    # Whoever lost another rank knows less than that one may have written, and on Slurm than the batch script, which
    # says whether the job goes on: until then the run has not failed.
    if not isinstance(error, RankLost) or (rank_info.leads and known is None and job.slurm is None):
        run.write_error(error)
    control.close("failed")
    if known is not None:
        _end(job, control, cast(Cause, known.cause), known.message)
    else:
        # A rank that was lost without an error was killed.
        _end(job, control, "killed" if isinstance(error, RankLost) else cast(Cause, cause_of(error)), str(error))


def _stopped(job: _Job, phase: str) -> tuple[Cause, str]:
    """Why the stage was asked to stop, in this phase."""
    names = ", ".join(signal.Signals(number).name for number in sorted(job.signals.received))
    if job.slurm is None or job.attempt is None:
        return "stopped", names
    job.signals.ignore()  # as do the processes that ask Slurm
    submission = job.run.submission()
    cancelled = submission is not None and submission.cancelled is not None
    logged = end_of(log_since(job.run.runs_root, job.attempt), job.slurm.node)
    facts = ask_about(job.slurm.task)
    reasons = [*job.reasons, *(["limit"] if signal.SIGUSR2 in job.signals.received and is_warning(facts) else [])]
    gathering = phase == START and job.rank_info.world > 1
    cause, job.again = why_stopped(reasons, cancelled, job.slurm.restart, facts, logged, gathering=gathering)
    if cause != "killed":
        return cause, names
    failed = job.run.failure()  # which the other rank may have left
    if failed is None:
        return cause, "another rank ended before all had met"
    job.again = False
    return cast(Cause, failed.cause), failed.message


def _go_on(job: _Job, slurm: SlurmJob) -> None:
    """Hand the saved job back to the queue; in a container without Slurm's tools the batch script does.

    Raises:
        StageFailed: its budget is exhausted, or Slurm does not take it.
        HpcsegError: left to the batch script, which sees it by the exit code.
    """
    if not can_requeue():
        raise HpcsegError(f"{job.run.id}: saved; there is no scontrol here, so the batch script requeues the job")
    submission = job.run.submission()
    assert job.attempt is not None and job.attempt.cause is not None and submission is not None
    print(requeue_or_fail(job.run, slurm, job.run.array(submission), job.attempt.cause), flush=True)
