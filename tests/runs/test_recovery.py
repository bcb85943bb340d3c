from __future__ import annotations

import typing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.runs.attempts import Attempt, Cause
from hpcseg.runs.recovery import Budgets, Decision, decide, mebibytes, times_of

CAUSES = typing.get_args(Cause)
REPEATED = {"limit", "timeout", "preempted", "node", "killed", "unbegun", "memory", "requeued"}


def attempt(number: int, cause: Cause, progress: int = 0, node: str = "n1") -> Attempt:
    """An attempt that got on by `progress`."""
    first = Attempt(number, "1_0", node, 10.0 * number, restart=number - 1, memory_mb=1000)
    return replace(first, cause=cause, ended=10.0 * number + 5, progress_ended=progress)


def after(*causes: Cause, budgets: Budgets | None = None, progress: int = 0, **had: int) -> Decision:
    """What is decided after attempts that ended so."""
    attempts = [attempt(number, cause, progress) for number, cause in enumerate(causes, start=1)]
    return decide(causes[-1], attempts, budgets or Budgets(), stage="train", **had)


def repeated(cause: Cause, times: int) -> list[Cause]:
    """As many ends of one cause."""
    return [cause] * times


def test_errors_of_the_stage_and_cancelled_jobs_are_never_repeated() -> None:
    for cause in set(CAUSES) - REPEATED:
        assert not after(cause).again


def test_limits_go_on_with_progress_and_stop_without() -> None:
    assert after(*repeated("limit", 50), progress=1).again
    assert after("limit").again
    stopped = after("limit", "limit", minutes=60)
    assert not stopped.again and stopped.why == (
        "2 attempts in a row came to the time limit of 60 min without progress: give more time to [slurm.train], "
        "or see the log for what takes so long"
    )
    assert not after("timeout", "preempted", "limit").again
    going = [attempt(1, "limit"), attempt(2, "limit", progress=3), attempt(3, "limit")]
    assert decide("limit", going, Budgets(), stage="train").again


def test_jobs_that_never_begin_have_a_budget_and_say_what_their_output_said() -> None:
    assert after(*repeated("unbegun", 2)).again and after("unbegun").exclude == ("n1",)
    never = [replace(attempt(number, "unbegun"), detail="apptainer: not found") for number in (1, 2, 3)]
    stopped = decide("unbegun", never, Budgets(), stage="train")
    assert (stopped.again, stopped.why) == (
        False,
        "3 times in a row hpcseg did not begin in its job, last on n1: apptainer: not found",
    )


def test_attempts_are_counted_as_the_budget_does() -> None:
    ends: list[Cause] = ["killed", "memory", "limit", "timeout", "memory"]
    attempts = [attempt(number, cause) for number, cause in enumerate(ends, start=1)]
    assert [times_of(cause, attempts) for cause in ("killed", "memory", "limit")] == [1, 2, 2]
    going = [*attempts, attempt(6, "killed", progress=5), attempt(7, "killed")]
    assert [times_of(cause, going) for cause in ("killed", "memory", "limit")] == [1, 2, 0]


def test_nodes_and_kills_have_a_budget_without_progress_and_the_node_is_left_out() -> None:
    assert after("node").exclude == ("n1",) and after("killed").exclude == ("n1",)
    assert after(*repeated("node", 3)).again and not after(*repeated("node", 4)).again
    assert after(*repeated("killed", 2)).again and not after(*repeated("killed", 3)).again
    assert after(*repeated("killed", 30), progress=1).again
    assert "last on n1" in after(*repeated("killed", 3)).why and not after(*repeated("killed", 3)).exclude
    assert not after("killed", budgets=Budgets(killed=0)).again


def test_memory_grows_up_to_what_there_is_and_stops_at_the_budget() -> None:
    first = after("memory", memory_mb=1000, most_mb=4000)
    assert (first.again, first.memory_mb) == (True, 1500)
    assert first.why == "used up 1000 MB of host memory (1 of 3 times): asks for 1500 MB"
    assert after("memory", memory_mb=3000, most_mb=4000).memory_mb == 4000
    full = after("memory", memory_mb=4000, most_mb=4000)
    assert not full.again and "and the largest node allows no more" in full.why
    bounded = after("memory", memory_mb=900, most_mb=900, budgets=Budgets(memory_max="900M"))
    assert "slurm.budgets.memory_max allows no more" in bounded.why
    assert not after(*repeated("memory", 4), memory_mb=1000).again
    assert after("memory").again and after("memory").memory_mb is None


@pytest.mark.parametrize(
    ("text", "mb"),
    [("", 0), ("900M", 900), ("2000", 2000), ("48G", 49152), ("1T", 1 << 20), ("1025K", 2), ("4GB", 4096)],
)
def test_memory_is_written_as_slurm_does(text: str, mb: int) -> None:
    assert mebibytes(text) == mb


histories = st.lists(st.tuples(st.sampled_from(CAUSES), st.integers(0, 2)), min_size=1, max_size=30)


@given(histories, st.integers(0, 5000), st.integers(0, 5000))
def test_every_history_has_a_decision_in_one_line(
    history: list[tuple[Cause, int]], memory_mb: int, most_mb: int
) -> None:
    attempts = [attempt(number, cause, progress) for number, (cause, progress) in enumerate(history, start=1)]
    cause = history[-1][0]
    decision = decide(cause, attempts, Budgets(), stage="pack", memory_mb=memory_mb, most_mb=most_mb)
    assert decision.why and "\n" not in decision.why
    assert decision.again <= (cause in REPEATED)
    assert decision.memory_mb is None or decision.memory_mb > memory_mb
    if not decision.again:
        assert decision.memory_mb is None and decision.exclude == ()


def test_an_attempt_that_began_anew_got_on() -> None:
    anew = replace(attempt(1, "limit", 40), progress_began=100)
    stuck = [replace(attempt(number, "limit", 40), progress_began=40) for number in (2, 3)]
    assert [times_of("limit", [anew, *stuck[:count]]) for count in range(3)] == [0, 1, 2]


@given(st.sampled_from(sorted(REPEATED)), st.integers(0, 5))
def test_without_progress_everything_ends(cause: Cause, times: int) -> None:
    budgets = Budgets(idle_limits=times, preempted=times, node=times, killed=times, unbegun=times, memory=times)
    again = [after(*[cause] * count, budgets=budgets, memory_mb=1000).again for count in range(1, 12)]
    assert again == sorted(again, reverse=True) and not again[-1]
    assert sum(again) == (max(times, 1) - 1 if cause in {"limit", "timeout"} else times)
