"""What the batch script calls when its job did not end well: `python -m hpcseg.jobs.aftermath FOLDER CODE [FILE=SIZE]`.

The script outlives a job that was killed for its memory, or for a reason that nobody knows. Here the attempt's end is
noted, and the job goes back to the queue, or the run is marked as failed; what the job could say itself is left alone.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcseg.errors import HpcsegError, StageFailed
from hpcseg.jobs.journal import closed_from_outside, log_since
from hpcseg.jobs.requeue import requeue_or_fail
from hpcseg.runs.attempts import Attempt, Cause, read_attempts
from hpcseg.runs.ends import End, end_of, end_of_failed, end_of_unbegun, explain_code, last_line
from hpcseg.runs.records import ArrayRecord, read_array
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import JobFacts, SlurmJob, ask_about, slurm_job

HELPED_BY_REPETITION: frozenset[Cause] = frozenset({"memory", "killed", "unbegun", "timeout"})
SAVED: frozenset[Cause] = frozenset({"limit", "preempted", "requeued"})


def main(arguments: list[str]) -> int:
    """Look at how the array task of this batch script ended; 0 if its run is done all the same, else 1 or 2.

    A rank that is killed as the last thing that happens ends srun badly, and nothing else: what waits for the run may
    begin.

    `arguments`: the array's folder, srun's exit code, and how long each file of output was when this start began.
    """
    # A job that is requeued is asked to end at once, and there may be more to say to Slurm.
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    job = slurm_job()
    if len(arguments) < 2 or job is None:
        usage = "python -m hpcseg.jobs.aftermath FOLDER CODE [FILE=SIZE ...]"
        print(f"usage, in the batch script of an array: {usage}", file=sys.stderr)
        return 2
    folder, code, logs = Path(arguments[0]), int(arguments[1]), _sizes(arguments[2:])
    try:
        record = read_array(folder.parents[1], folder.name)
        if record is None or job.index not in record.tasks:
            return 1
        run = RunDir.of(folder.parents[1], record.stage, record.runs[record.tasks.index(job.index)])
        look_after(run, job, record, code, logs)
        return 0 if run.is_done() else 1
    except HpcsegError as error:
        print(error, file=sys.stderr)
    return 1


def look_after(run: RunDir, job: SlurmJob, record: ArrayRecord, code: int, logs: Mapping[str, int]) -> None:
    """Note how this job's attempt at a run ended, and do what follows; `logs`: bytes of each file before this start."""
    submission = run.submission()
    if submission is None or submission.array != record.tag:
        return
    attempt, begun = _attempt_of(run, job, record.tag, logs)
    if attempt is None or run.is_done():
        if attempt is not None and attempt.cause is None:
            closed_from_outside(run, attempt, End("done", explain_code(code)), time.time())
        return
    log = log_since(run.runs_root, attempt)
    cause = attempt.cause
    if cause is None:
        end = end_of_failed(log, code, attempt.node) if begun else end_of_unbegun(log, code, attempt.node)
        end = corrected_end(end, job, ask_about(job.task), submission.cancelled)
        cause = closed_from_outside(run, attempt, end, time.time()).cause
        if end.cause in {"python", "disk"} and run.failure() is None:
            run.write_error(StageFailed(end.cause, _words(end, log, code)))
    elif cause in {"python", "killed"}:
        # What a rank or a pack saw of another process' end is the consequence; the log may know the reason.
        reason = end_of(log, attempt.node)
        if reason is not None and reason.cause == "memory":
            cause = closed_from_outside(run, attempt, reason, attempt.ended).cause
    if cause in HELPED_BY_REPETITION or (cause in SAVED and _still_here(run, job, cause)):
        try:
            how = requeue_or_fail(run, job, record, cause)
        except StageFailed as failed:
            how = str(failed)
        print(f"{run.id}: {how}", file=sys.stderr, flush=True)


def _still_here(run: RunDir, job: SlurmJob, cause: Cause) -> bool:
    """Whether a job that is to go on later was not requeued: it runs where Slurm's tools are not, or was killed."""
    facts = ask_about(job.task)
    if facts is None or facts.restarts != job.restart or run.failure() is not None:
        return False
    return facts.may_be_requeued or cause == "preempted"


def corrected_end(end: End, job: SlurmJob, facts: JobFacts | None, cancelled: float | None) -> End:
    """What the log says of the end, corrected by what Slurm says now. Pure."""
    if end.cause not in HELPED_BY_REPETITION:
        return end
    if cancelled is not None:
        return End("cancelled", "cancelled by hpcseg cancel")
    if facts is None or facts.may_be_requeued:
        return End("timeout", end.line) if facts is not None and facts.reason == "TimeLimit" else end
    return End("requeued" if facts.restarts > job.restart else "cancelled", f"Slurm says {facts.state}")


def _attempt_of(run: RunDir, job: SlurmJob, array: str, logs: Mapping[str, int]) -> tuple[Attempt | None, bool]:
    """This job's attempt at the run, and whether hpcseg began it; None if another process works on the run."""
    found = read_attempts(run.path)
    own = [attempt for attempt in found if (attempt.job, attempt.restart) == (job.task, job.restart)]
    if own:
        return own[-1], True
    try:
        run.lock(0.0).release()
    except HpcsegError:
        return None, True
    # It ended before it began: a command of the set-up failed, or the container, or Python itself.
    number = found[-1].number if found else 0
    attempt = Attempt(
        number + 1, job.task, job.node, time.time(), job.restart, job.gpus, job.memory_mb, array=array, logs=dict(logs)
    )
    return attempt, False


def _sizes(words: Sequence[str]) -> dict[str, int]:
    """Files and their sizes from `name=bytes`."""
    pairs = (word.rpartition("=") for word in words)
    return {name: int(size) for name, _, size in pairs if size.isdigit()}


def _words(end: End, log: str, code: int) -> str:
    line = last_line(log)
    return line if end.cause == "python" and line else f"{explain_code(code)}: {end.line}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
