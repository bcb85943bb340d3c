"""What the batch script calls when its job did not end well: `python -m hpcseg.jobs.aftermath FOLDER CODE`.

The script outlives a job that was killed for its memory, or for a reason that nobody knows. Here the attempt's end is
noted, and the job goes back to the queue, or the run is marked as failed; what the job could say itself is left alone.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from hpcseg.errors import HpcsegError, StageFailed
from hpcseg.jobs.journal import closed_from_outside, log_since
from hpcseg.jobs.requeue import requeue_or_fail
from hpcseg.runs.attempts import Attempt, Cause, read_attempts
from hpcseg.runs.ends import End, end_of, end_of_failed, explain_code, last_line
from hpcseg.runs.records import ArrayRecord, read_array
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import JobFacts, SlurmJob, ask_about, slurm_job

HELPED_BY_REPETITION: frozenset[Cause] = frozenset({"memory", "killed", "timeout"})
SAVED: frozenset[Cause] = frozenset({"limit", "preempted", "requeued"})


def main(arguments: list[str]) -> int:
    """Look at how the array task of this batch script ended; `arguments`: the array's folder, srun's exit code."""
    # A job that is requeued is asked to end at once, and there may be more to say to Slurm.
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    job = slurm_job()
    if len(arguments) != 2 or job is None:
        print("usage, in the batch script of an array: python -m hpcseg.jobs.aftermath FOLDER CODE", file=sys.stderr)
        return 2
    folder, code = Path(arguments[0]), int(arguments[1])
    try:
        record = read_array(folder.parents[1], folder.name)
        if record is None or job.index not in record.tasks:
            return 0
        run = RunDir.of(folder.parents[1], record.stage, record.runs[record.tasks.index(job.index)])
        look_after(run, job, record, code)
    except HpcsegError as error:
        print(error, file=sys.stderr)
    return 0


def look_after(run: RunDir, job: SlurmJob, record: ArrayRecord, code: int) -> None:
    """Note how this job's attempt at a run ended, and do what follows."""
    submission = run.submission()
    if submission is None or submission.array != record.tag:
        return
    attempt = _attempt_of(run, job, record.tag)
    if attempt is None or run.is_done():
        if attempt is not None and attempt.cause is None:
            closed_from_outside(run, attempt, End("done", explain_code(code)), time.time())
        return
    log = log_since(run.runs_root, attempt)
    cause = attempt.cause
    if cause is None:
        end = corrected_end(end_of_failed(log, code, attempt.node), job, ask_about(job.task), submission.cancelled)
        cause = closed_from_outside(run, attempt, end, time.time()).cause
        if end.cause in {"python", "disk"} and run.failure() is None:
            run.write_error(StageFailed(end.cause, _words(end, log, code)))
    elif cause in {"python", "killed"}:
        # What a rank or a pack saw of another process' end is the consequence; the log may know the reason.
        reason = end_of(log, attempt.node)
        if reason is not None and reason.cause == "memory":
            cause = closed_from_outside(run, attempt, reason, attempt.ended).cause
    if cause in HELPED_BY_REPETITION or (cause in SAVED and _still_here(run, job)):
        try:
            how = requeue_or_fail(run, job, record, cause)
        except StageFailed as failed:
            how = str(failed)
        print(f"{run.id}: {how}", file=sys.stderr, flush=True)


def _still_here(run: RunDir, job: SlurmJob) -> bool:
    """Whether a job that saved to go on later was not requeued, because it runs where Slurm's tools are not."""
    facts = ask_about(job.task)
    waits = facts is not None and facts.may_be_requeued and facts.restarts == job.restart
    return waits and run.failure() is None


def corrected_end(end: End, job: SlurmJob, facts: JobFacts | None, cancelled: float | None) -> End:
    """What the log says of the end, corrected by what Slurm says now. Pure."""
    if end.cause not in HELPED_BY_REPETITION:
        return end
    if cancelled is not None:
        return End("cancelled", "cancelled by hpcseg cancel")
    if facts is None or facts.may_be_requeued:
        return End("timeout", end.line) if facts is not None and facts.reason == "TimeLimit" else end
    return End("requeued" if facts.restarts > job.restart else "cancelled", f"Slurm says {facts.state}")


def _attempt_of(run: RunDir, job: SlurmJob, array: str) -> Attempt | None:
    """This job's attempt at the run; None if another process works on the run."""
    found = read_attempts(run.path)
    own = [attempt for attempt in found if (attempt.job, attempt.restart) == (job.task, job.restart)]
    if own:
        return own[-1]
    try:
        run.lock(0.0).release()
    except HpcsegError:
        return None
    # It ended before it began: a command of the set-up failed, or the container, or Python itself.
    number = found[-1].number if found else 0
    before = [attempt for attempt in found if attempt.job == job.task]
    logs = before[-1].logs if before else {}
    return Attempt(
        number + 1, job.task, job.node, time.time(), job.restart, job.gpus, job.memory_mb, array=array, logs=logs
    )


def _words(end: End, log: str, code: int) -> str:
    line = last_line(log)
    return line if end.cause == "python" and line else f"{explain_code(code)}: {end.line}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
