from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.jobs.requeue import is_warning, patience_s, why_stopped
from hpcseg.runs.ends import End
from hpcseg.slurm.job import JobFacts, SlurmJob

RUNS = JobFacts("RUNNING", "None", 1)
ENDS = JobFacts("COMPLETING", "None", 1)
AGAIN = JobFacts("COMPLETING", "None", 2)
PREEMPTION, CANCELLATION = End("preempted", "…"), End("cancelled", "…")


@pytest.mark.parametrize(
    ("reasons", "cancelled", "facts", "said", "expected"),
    [
        ([], False, RUNS, None, ("requeued", True)),  # USR2 by hand
        (["limit"], False, RUNS, None, ("limit", True)),
        ([], False, JobFacts("RUNNING", "None", 1, preempted=True), None, ("preempted", True)),
        ([], False, JobFacts("COMPLETING", "TimeLimit", 1), None, ("limit", True)),
        ([], False, ENDS, PREEMPTION, ("preempted", True)),  # PreemptMode=CANCEL
        ([], True, ENDS, PREEMPTION, ("cancelled", False)),
        ([], False, ENDS, CANCELLATION, ("cancelled", False)),  # scancel
        ([], True, RUNS, None, ("cancelled", False)),  # hpcseg cancel
        ([], False, AGAIN, None, ("requeued", False)),  # scontrol requeue
        ([], False, AGAIN, PREEMPTION, ("preempted", False)),
        ([], False, None, CANCELLATION, ("cancelled", False)),  # nobody answers: the log counts
        ([], False, None, PREEMPTION, ("preempted", False)),
        ([], False, None, None, ("requeued", True)),
        (["superseded"], False, RUNS, None, ("superseded", False)),
    ],
)
def test_why_a_job_was_asked_to_stop(
    reasons: list[str], cancelled: bool, facts: JobFacts | None, said: End | None, expected: tuple[str, bool]
) -> None:
    assert why_stopped(reasons, cancelled, 1, facts, said) == expected


def test_a_job_that_ends_while_its_ranks_gather_was_killed_unless_something_says_why() -> None:
    def why(facts: JobFacts | None, *reasons: str) -> tuple[str, bool]:
        return why_stopped(reasons, False, 1, facts, None, gathering=True)

    assert why(RUNS) == ("killed", True)
    assert why(RUNS, "limit") == ("limit", True) and why(None) == ("requeued", True)
    assert why(AGAIN) == ("requeued", False) and why(ENDS) == ("cancelled", False)


def test_a_warning_is_a_signal_near_the_end() -> None:
    now = time.time()
    assert is_warning(replace(RUNS, start=now - 3000, end=now + 600))
    assert is_warning(replace(RUNS, start=now - 5, end=now + 55))  # a job of a minute is warned at once
    assert not is_warning(replace(RUNS, start=now - 60, end=now + 3540))
    assert not is_warning(RUNS) and not is_warning(None)


@given(
    st.lists(st.sampled_from(["limit", "superseded"])),
    st.sampled_from(["COMPLETING", "CANCELLED"]),
    st.sampled_from(["None", "NonZeroExitCode"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_job_that_is_ending_is_never_brought_back_to_life(
    reasons: list[str], state: str, reason: str, restarts: int, preempted: bool
) -> None:
    assert not why_stopped(reasons, False, 0, JobFacts(state, reason, restarts, preempted), None)[1]


def test_a_job_at_its_limit_asks_slurm_to_take_it_back_for_as_long_as_it_has() -> None:
    job = SlurmJob("4_2", end=1000)
    assert [patience_s(job, "limit", now) for now in (700.0, 980.0, 1100.0)] == [285.0, 8.0, 8.0]
    assert patience_s(job, "preempted", 700.0) == patience_s(SlurmJob("4_2"), "limit", 700.0) == 8.0
