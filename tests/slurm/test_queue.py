from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.slurm.commands import compact
from hpcseg.slurm.queue import Queue, QueueEntry, parse_queue, read_queue, tasks_of

# As squeue 22.05 gave it: a held array with cancelled tasks, a throttled one, a job whose name has a line break.
HEADER = "JOBID|STATE|RESTARTCOUNT|NODELIST|START_TIME|REASON|UID|NAME|"
ANSWER = """\
30_[1-7:2,90]|PENDING|0||N/A|JobHeldUser|1000|hpcseg-train-0a1b2c3d|
31_[0-2%50]|PENDING|0||2027-11-23T09:04:12|Dependency|1000|hpcseg-train-0|a,b|
31_7|RUNNING|2|n1|2026-11-23T09:04:12|None|1000|hpcseg-pack-1|
32|RUNNING|0|n[1-2]|2026-11-23T09:04:12|None|1000|a|b
c d|
40+1|PENDING|0||N/A|Resources|1000|heterogeneous|
"""


def test_the_tasks_of_an_array_are_taken_apart() -> None:
    jobs = parse_queue(ANSWER)
    held = ["30_1", "30_3", "30_5", "30_7", "30_90"]
    assert list(jobs) == [*held, "31_0", "31_1", "31_2", "31_7", "32", "40+1"]
    assert jobs["30_90"] == QueueEntry("PENDING", "JobHeldUser", "hpcseg-train-0a1b2c3d", start="N/A", uid=1000)
    assert jobs["31_1"].name == "hpcseg-train-0|a,b" and jobs["31_1"].reason == "Dependency"
    assert (jobs["31_7"].restarts, jobs["31_7"].node) == (2, "n1") and jobs["31_7"].began > 1.7e9
    assert jobs["30_1"].began == 0.0


def test_jobs_are_found_by_name_and_of_two_arrays_the_later_one() -> None:
    jobs = parse_queue(ANSWER) | parse_queue("33_[4-5]|PENDING|0||N/A|None|1000|hpcseg-train-0a1b2c3d|")
    assert Queue(jobs).named("hpcseg-train-0a1b2c3d") == {4: "33_4", 5: "33_5"}
    assert Queue(jobs).named("hpcseg-pack-1") == {7: "31_7"}
    assert Queue(jobs).named("hpcseg-nothing") == {}


@given(st.lists(st.integers(0, 3000), min_size=1, unique=True))
def test_tasks_that_were_put_into_one_expression_come_apart_again(tasks: list[int]) -> None:
    (expression,) = compact(f"7_{task}" for task in tasks)
    assert tasks_of(expression.removeprefix("7_[").removesuffix("]")) == sorted(tasks)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1", "slurm_load_jobs error: Socket timed out"),
        ("exit 3", "squeue failed with exit code 3"),
        ("echo '7_3 PENDING'", "squeue said what cannot be read: 7_3 PENDING"),
        ("exit 0", "squeue said nothing"),  # of an empty queue it writes the header
        (f"printf '{HEADER}\\n30|PENDING|0||N/A|Resou'", "squeue was cut off in its answer"),
    ],
)
def test_a_squeue_that_fails_is_an_answer_of_its_own(script: str, error: str, slurm_tools: Callable[..., Path]) -> None:
    slurm_tools(squeue=script)
    assert read_queue() == Queue({}, error, silent=True)


def test_the_header_is_the_answer_whatever_else_is_said(slurm_tools: Callable[..., Path]) -> None:
    slurm_tools(squeue=f"echo Welcome; echo; echo 'CLUSTER: a'; echo '{HEADER}'; echo '5_1|RUNNING|0|n1|N/A|None|7|a|'")
    assert read_queue().jobs == {"5_1": QueueEntry("RUNNING", "None", "a", node="n1", start="N/A", uid=7)}
    slurm_tools(squeue=f"echo '{HEADER}'")
    assert read_queue() == Queue({}, uid=os.geteuid())


def test_other_users_are_asked_for_as_well(slurm_tools: Callable[..., Path]) -> None:
    log = slurm_tools() / "calls"
    slurm_tools(squeue=f'echo "$1" >> {log}; echo "{HEADER}"')
    read_queue([77, os.geteuid()])
    assert log.read_text() == f"--user={','.join(map(str, sorted({77, os.geteuid()})))}\n"


@pytest.mark.parametrize(
    ("state", "reason", "held"),
    [
        ("PENDING", "JobHeldUser", True),
        ("PENDING", "JobHeldAdmin", True),
        ("PENDING", "launch failed requeued held", True),
        ("PENDING", "JobHoldMaxRequeue", True),
        ("REQUEUE_HOLD", "None", True),
        ("SPECIAL_EXIT", "None", True),
        ("PENDING", "Dependency", False),
        ("PENDING", "BeginTime", False),
        ("RUNNING", "None", False),
    ],
)
def test_jobs_that_wait_until_somebody_releases_them_are_held(state: str, reason: str, held: bool) -> None:
    assert QueueEntry(state, reason).held is held


def test_without_squeue_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_queue().error == "squeue is not installed here"
