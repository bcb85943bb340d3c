from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.runs.ends import End, end_of, end_of_failed, end_of_unbegun, explain_code, last_line

CANCELLED = "slurmstepd-n1: error: *** {} ON n1 CANCELLED AT 2026-11-23T08:58:34{} ***"
EVENTS = {
    CANCELLED.format("JOB 2", " DUE TO JOB REQUEUE"): "requeued",
    CANCELLED.format("STEP 2.0", " DUE TO JOB REQUEUE"): "requeued",
    CANCELLED.format("JOB 3", " DUE TO PREEMPTION"): "preempted",
    CANCELLED.format("JOB 4", " DUE TO TIME LIMIT"): "timeout",
    CANCELLED.format("JOB 4", " DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"): "node",
    CANCELLED.format("JOB 1", ""): "cancelled",
    "slurmstepd-n1: error: StepId=3.0 exceeded memory limit (433176576 > 209715200), being killed": "memory",
    "slurmstepd: error: Exceeded job memory limit": "memory",
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0. Some may have been killed": "memory",
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.": "memory",
    "srun: error: n1: task 0: Out Of Memory": "memory",
    "hpcseg.errors.StageFailed: /runs/train/x: no space left; free some": "disk",  # where no error.json could be
    "RuntimeError: Can't write (errno = 28, error message = 'No space left on device', buf = 0x5)": "disk",
    "OSError: [Errno 28] No space left on device": "disk",
    "submitit ERROR (2026-11-23 09:11:44,473) - Submitted job triggered an exception": "python",
    "epoch 3 of 100": None,
    "srun: Job step aborted: Waiting up to 3 seconds for job step to finish.": None,
}


@pytest.mark.parametrize(("line", "cause"), EVENTS.items())
def test_what_slurm_writes_is_understood(line: str, cause: str | None) -> None:
    end = end_of(f"something\n  {line}\n")
    assert (None if end is None else (end.cause, end.line)) == (None if cause is None else (cause, line))


def test_the_last_event_wins_and_a_step_that_srun_ended_says_nothing() -> None:
    lines = [CANCELLED.format("JOB 1", " DUE TO PREEMPTION"), CANCELLED.format("JOB 1", "")]
    assert end_of("\n".join(lines)).cause == "cancelled"
    assert end_of("\n".join(reversed(lines))).cause == "preempted"
    killed = "slurmstepd: error: StepId=3.0 exceeded memory limit (4 > 2), being killed"
    end = end_of(f"{killed}\n{CANCELLED.format('STEP 3.0', '')}\nsrun: error: n1: task 0: Killed")
    assert end is not None and (end.cause, end.line) == ("memory", killed)


def test_an_exception_after_a_memory_kill_is_its_consequence() -> None:
    log = "slurmstepd: error: Detected 1 oom-kill event(s)\nsubmitit ERROR (x) - Submitted job triggered an exception"
    assert end_of(log).cause == "memory"


def test_what_is_said_of_another_node_belongs_to_another_attempt() -> None:
    log = CANCELLED.format("JOB 4", " DUE TO NODE FAILURE")
    assert end_of(log, "n2") is None
    assert end_of(log, "n1") is not None and end_of(log, "n[1-2]") is not None and end_of(log) is not None


def test_a_job_that_ends_without_a_word_was_killed() -> None:
    said = "srun: error: n1: task 0: Killed"
    assert end_of_failed(f"x\n{said}\n", 137).line == said
    for code, words in (
        (137, "ended by SIGKILL"),
        (139, "ended by SIGSEGV"),
        (1, "exit code 1"),
        (255, "exit code 255"),
    ):
        end = end_of_failed("nothing to see", code)
        assert (end.cause, end.line) == ("killed", words)
    assert end_of_failed(CANCELLED.format("JOB 1", ""), 0).cause == "cancelled"


EXCEPTION = "submitit ERROR (2026-11-23 09:11:44,473) - Submitted job triggered an exception\nTraceback …\n{}\n"


def test_the_loss_of_another_rank_is_no_cause_by_itself() -> None:
    lost = EXCEPTION.format("hpcseg.errors.RankLost: rank 0 is gone")
    killed = "srun: error: n1: task 0: Killed\nsrun: Force Terminated StepId=7.0\n"
    for words in (lost, EXCEPTION.format("[rank1]: hpcseg.errors.RankLost: rank 0 is gone")):
        end = end_of_failed(words + killed, 137)
        assert (end.cause, end.line) == ("killed", "srun: error: n1: task 0: Killed")
    assert end_of(EXCEPTION.format("ZeroDivisionError: x") + lost + killed) is not None
    assert end_of(lost + EXCEPTION.format("ZeroDivisionError: x")) is not None


def test_where_hpcseg_did_not_begin_the_line_that_says_why_is_found() -> None:
    said = "slurmstepd: error: execve(): apptainer: No such file or directory"
    end = end_of_unbegun(f"{said}\nsrun: error: n1: task 0: Exited with exit code 2\n", 2)
    assert (end.cause, end.line) == ("unbegun", said)
    assert end_of_unbegun("", 127) == End("unbegun", "exit code 127")
    assert end_of_unbegun("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", 1).cause == "memory"


@given(st.text(), st.integers(0, 255))
def test_any_log_and_any_code_give_an_answer(log: str, code: int) -> None:
    assert end_of_failed(log, code).cause and explain_code(code)
    assert last_line(log) == last_line(log + "\n\n")
