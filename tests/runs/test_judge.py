from __future__ import annotations

import os
import socket
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.heartbeat import Heartbeat
from hpcseg.host import process_start
from hpcseg.runs.attempts import Attempt, Cause
from hpcseg.runs.evidence import OPEN, TO_SUBMIT, Evidence
from hpcseg.runs.judge import judge, judge_all
from hpcseg.runs.records import ArrayRecord, Asked, Failure, Process, Submission
from hpcseg.runs.states import NOT_ASKED
from hpcseg.slurm.accounting import Fate
from hpcseg.slurm.queue import Cluster, Queue, QueueEntry

NOW = 10_000.0
HOST = socket.gethostname()
MYSELF = Process(pid=os.getpid(), pid_start=process_start(os.getpid()) or 0.0)
DEAD = Process(pid=MYSELF.pid, pid_start=MYSELF.pid_start + 1)  # another process that once had this pid
LOCAL = Submission(backend="local", submitted=0.0, host=HOST, pool=MYSELF, attempt=2)
SLURM = Submission(backend="slurm", submitted=0.0, host=HOST, array="train-a", task=3, attempt=2)
ARRAY = ArrayRecord(
    tag="train-a",
    stage="train",
    runs=("r",),
    tasks=(3,),
    submitted=0.0,
    host=HOST,
    submitter=DEAD,
    asked=Asked(minutes=60, memory_mb=1000),
    job_id="7",
)
BEAT = Heartbeat(
    state="running",
    phase="training",
    step=3,
    steps=9,
    epoch=1,
    loss=0.5,
    eta_s=1.0,
    time=NOW - 60,
    host=HOST,
    pid=DEAD.pid,
    pid_start=DEAD.pid_start,
    attempt=2,
)
ALIVE = replace(BEAT, pid_start=MYSELF.pid_start)
ELSEWHERE = replace(BEAT, host="elsewhere")
UNHEARD = ARRAY.model_copy(update={"job_id": None})  # nobody heard Slurm's id of it
FAILURE = Failure(time=1.0, cause="python", message="ValueError: no", traceback="")


def known(**values: Any) -> Evidence:
    """Evidence about a planned run, and which of the processes that it names are there."""
    found = Evidence(**{"planned": True, "array": ARRAY, **values})
    submission, heartbeat = found.submission, found.heartbeat
    return replace(
        found,
        job_alive=None if heartbeat is None else heartbeat.alive,
        submitter_alive=None if submission is None else submission.submitter_alive(found.array),
    )


def queue(**jobs: str) -> Queue:
    return Queue({name.removeprefix("j"): QueueEntry(state, "Priority") for name, state in jobs.items()})


def named(state: str) -> Queue:
    """The job of `SLURM` under an id that only the queue knows."""
    return Queue({"9_3": QueueEntry(state, "Priority", ARRAY.job_name)})


EMPTY = Queue({})
PARENT = Process(pid=os.getppid(), pid_start=process_start(os.getppid()) or 0.0)
SUBMITTING = UNHEARD.model_copy(update={"submitter": PARENT})
JUST_NOW = SLURM.model_copy(update={"submitted": NOW - 5})


@pytest.mark.parametrize(
    ("evidence", "answer", "state"),
    [
        ({"planned": False}, None, "new"),
        ({}, None, "new"),
        ({"done": True, "failure": FAILURE}, None, "done"),
        # on this host
        ({"submission": LOCAL}, None, "queued"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, attempt=1)}, None, "queued"),  # of an earlier submission
        ({"submission": LOCAL, "heartbeat": ALIVE}, None, "running"),
        ({"submission": LOCAL, "heartbeat": BEAT}, None, "lost"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, state="stopped")}, None, "stopped"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, state="failed"), "failure": FAILURE}, None, "failed"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, state="failed")}, None, "stopped"),  # hpcseg retry
        ({"submission": SLURM, "heartbeat": replace(BEAT, state="failed")}, EMPTY, "stopped"),
        ({"submission": LOCAL.model_copy(update={"pool": DEAD})}, None, "stopped"),
        ({"submission": LOCAL.model_copy(update={"cancelled": 1.0})}, None, "stopped"),
        ({"heartbeat": ALIVE}, None, "running"),  # hpcseg train
        ({"heartbeat": BEAT}, None, "lost"),
        # on another host
        ({"submission": LOCAL.model_copy(update={"host": "elsewhere"})}, None, "unknown"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, host="elsewhere")}, None, "running"),
        ({"submission": LOCAL, "heartbeat": replace(BEAT, host="elsewhere", time=0.0)}, None, "lost"),
        # on Slurm
        ({"submission": SLURM}, queue(j7_3="PENDING"), "queued"),
        ({"submission": SLURM}, queue(j7_3="RUNNING"), "running"),
        ({"submission": SLURM, "heartbeat": replace(BEAT, state="stopped")}, queue(j7_3="PENDING"), "requeued"),
        ({"submission": SLURM}, queue(j7_4="RUNNING"), "lost"),
        ({"submission": SLURM, "heartbeat": BEAT}, EMPTY, "lost"),
        ({"submission": SLURM, "heartbeat": replace(BEAT, state="stopped")}, EMPTY, "stopped"),
        ({"submission": SLURM.model_copy(update={"cancelled": 1.0})}, EMPTY, "stopped"),
        ({"submission": SLURM, "failure": FAILURE}, queue(j7_3="COMPLETING"), "failed"),
        ({"submission": SLURM, "failure": FAILURE}, queue(j7_3="PENDING"), "requeued"),
        ({"submission": SLURM, "failure": FAILURE}, Queue({}, "no answer"), "failed"),
        ({"submission": SLURM, "heartbeat": ELSEWHERE}, queue(j7_3="COMPLETING"), "running"),
        ({"submission": SLURM, "heartbeat": ELSEWHERE}, queue(j7_3="REQUEUE_HOLD"), "held"),
        ({"submission": SLURM, "heartbeat": ELSEWHERE}, queue(j7_3="SUSPENDED"), "stalled"),
        ({"submission": SLURM}, queue(j7_3="CONFIGURING"), "running"),
        # silent
        ({"submission": SLURM, "heartbeat": replace(ELSEWHERE, time=NOW - 700)}, queue(j7_3="RUNNING"), "stalled"),
        ({"submission": SLURM, "heartbeat": replace(ELSEWHERE, time=NOW - 500)}, queue(j7_3="RUNNING"), "running"),
        ({"submission": LOCAL, "heartbeat": replace(ALIVE, time=NOW - 700)}, None, "stalled"),
        ({"submission": LOCAL, "heartbeat": replace(ELSEWHERE, time=NOW - 700)}, None, "stalled"),
        # a submission that was not confirmed
        ({"submission": SLURM, "array": UNHEARD}, EMPTY, "lost"),
        ({"submission": SLURM.model_copy(update={"submitted": NOW - 59}), "array": UNHEARD}, EMPTY, "unknown"),
        ({"submission": SLURM, "array": UNHEARD}, named("RUNNING"), "running"),
        ({"submission": SLURM, "array": UNHEARD}, named("PENDING"), "queued"),
        ({"submission": SLURM, "array": UNHEARD}, Queue({}, "no answer"), "unknown"),
        ({"submission": SLURM, "array": None}, named("PENDING"), "queued"),
        ({"submission": JUST_NOW, "array": SUBMITTING}, EMPTY, "queued"),
        ({"submission": SLURM, "array": SUBMITTING}, EMPTY, "lost"),  # hours ago: that process does something else
        ({"submission": JUST_NOW, "array": SUBMITTING.model_copy(update={"refused": "no"})}, EMPTY, "lost"),
        # records that cannot be read
        ({"damage": "job.json: no"}, EMPTY, "unknown"),
    ],
)
def test_the_state_follows_from_the_evidence(evidence: dict[str, Any], answer: Queue | None, state: str) -> None:
    verdict = judge(known(**evidence), answer or NOT_ASKED, NOW)
    assert verdict.state == state
    assert verdict.why and "\n" not in verdict.why


@pytest.mark.parametrize("heartbeat", [None, BEAT, replace(BEAT, state="stopped"), replace(BEAT, host="node1")])
def test_without_an_answer_of_squeue_no_job_is_dead(heartbeat: Heartbeat | None) -> None:
    evidence = known(submission=SLURM, heartbeat=heartbeat)
    assert judge(evidence, Queue({}, "Socket timed out"), NOW).state == "unknown"
    assert "Socket timed out" in judge(evidence, Queue({}, "Socket timed out"), NOW).why


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (QueueEntry("PENDING", "Resources"), "Slurm job 7_3 is PENDING (Resources)"),
        (QueueEntry("PENDING", "DependencyNeverSatisfied"), "a job that it waits for failed"),
        (QueueEntry("PENDING", "BeginTime", restarts=1), "again after memory 2 of 3 on n1: 900 MB were not enough"),
        (QueueEntry("RUNNING", "None", restarts=1, node="n2"), "Slurm job 7_3 is RUNNING on n2"),
    ],
)
def test_a_job_in_the_queue_is_told_with_its_reason(entry: QueueEntry, words: str) -> None:
    killed = Attempt(number=2, job="7_3", node="n1", began=1.0, ended=2.0, cause="memory")
    again = replace(killed, number=3, restart=1, detail="900 MB were not enough")
    of_before = replace(killed, number=1)
    evidence = known(submission=SLURM, attempts=(of_before, killed, again))
    verdict = judge(evidence, Queue({"7_3": entry}), NOW)
    assert words in verdict.why
    assert (verdict.job, verdict.node) == ("7_3", entry.node)


def test_a_silence_counts_from_the_last_start_of_the_job() -> None:
    evidence = known(submission=SLURM, heartbeat=replace(ELSEWHERE, time=NOW - 9000))

    def state(began: float) -> str:
        start = datetime.fromtimestamp(began).isoformat(timespec="seconds")
        return judge(evidence, Queue({"7_3": QueueEntry("RUNNING", start=start)}), NOW).state

    assert state(NOW - 60) == "running"
    assert state(NOW - 700) == "stalled"


@pytest.mark.parametrize(
    ("fate", "state", "cause"),
    [
        (Fate("node", "NODE_FAIL on n3", "n3"), "lost", "node"),
        (Fate("memory", "OUT_OF_MEMORY on n3", "n3"), "lost", "memory"),
        (Fate("cancelled", "CANCELLED", ""), "stopped", "cancelled"),
        (Fate("", "its output ends with: command not found", ""), "lost", ""),
        (None, "lost", ""),
    ],
)
def test_what_is_known_of_a_jobs_end_is_told(fate: Fate | None, state: str, cause: str) -> None:
    verdict = judge(known(submission=SLURM), EMPTY, NOW, fate)
    assert (verdict.state, verdict.cause) == (state, cause)
    assert fate is None or state == "stopped" or (fate.words in verdict.why and verdict.node == fate.node)


def test_an_attempt_that_left_a_word_explains_the_end_of_its_job() -> None:
    attempt = Attempt(number=2, job="7_3", node="n1", began=1.0, ended=2.0, cause="timeout", detail="not saved")
    evidence = known(submission=SLURM, attempts=(attempt,))
    assert judge(evidence, EMPTY, NOW).why == "Slurm job 7_3 left the queue before it began: timeout on n1: not saved"
    cancelled = replace(evidence, attempts=(replace(attempt, cause="cancelled"),))
    assert judge(cancelled, EMPTY, NOW).state == "stopped"


def test_a_job_that_is_just_ending_says_so() -> None:
    evidence = known(submission=SLURM, failure=FAILURE)
    assert judge(evidence, queue(j7_3="COMPLETING"), NOW).ending
    assert not judge(evidence, queue(j7_3="RUNNING"), NOW).ending


BEATS = st.builds(
    replace,
    st.sampled_from([BEAT, ALIVE, ELSEWHERE]),
    state=st.sampled_from(["running", "stopped", "done", "failed"]),
    attempt=st.integers(1, 3),
    time=st.floats(0, NOW),
)
ARRAYS = st.sampled_from([None, ARRAY, UNHEARD, SUBMITTING, ARRAY.model_copy(update={"refused": "no", "job_id": None})])
ATTEMPTS = st.builds(
    Attempt,
    number=st.integers(1, 3),
    job=st.just("7_3"),
    node=st.sampled_from(["", "n1"]),
    began=st.just(1.0),
    cause=st.sampled_from([None, "done", "cancelled", "node", "memory", "superseded"]),
)
ON_SLURM = st.builds(
    known,
    submission=st.builds(
        lambda submission, **values: submission.model_copy(update=values),
        st.just(SLURM),
        submitted=st.floats(0, NOW),
        cancelled=st.sampled_from([None, 1.0]),
        array=st.sampled_from(["", "train-a"]),
        pool=st.sampled_from([None, MYSELF, PARENT, DEAD]),
    ),
    heartbeat=st.none() | BEATS,
    array=ARRAYS,
    attempts=st.lists(ATTEMPTS, max_size=3).map(tuple),
)
ENTRIES = st.builds(
    QueueEntry,
    st.sampled_from(["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUE_HOLD", "CONFIGURING", "SIGNALING"]),
    st.sampled_from(["", "None", "Resources", "BeginTime", "DependencyNeverSatisfied"]),
    st.sampled_from(["", "hpcseg-train-a"]),
    st.integers(0, 2),
    st.sampled_from(["", "n1"]),
    st.just(""),
)
FATES = st.none() | st.builds(Fate, st.sampled_from(["", "node", "cancelled"]), st.just("words"), st.just(""))


@given(ON_SLURM, st.sampled_from([NOT_ASKED, Queue({}, "Socket timed out")]), FATES)
def test_a_queue_that_does_not_answer_proves_no_death(evidence: Evidence, queue: Queue, fate: Fate) -> None:
    verdict = judge(evidence, queue, NOW, fate)
    heartbeat = evidence.heartbeat
    if heartbeat is not None and heartbeat.state == "running" and heartbeat.alive:
        assert verdict.state in {"running", "stalled"}
    elif verdict.state != "unknown":
        assert (verdict.state, verdict.why) == ("queued", "is being submitted")
    assert verdict.state not in TO_SUBMIT


@given(ON_SLURM, ENTRIES, st.sampled_from(["7_3", "9_3"]), FATES)
def test_a_run_whose_job_is_in_the_queue_is_never_submitted_again(
    evidence: Evidence, entry: QueueEntry, job: str, fate: Fate
) -> None:
    found = evidence.job == job or (
        evidence.job is None and entry.name == ARRAY.job_name and evidence.submission.array == "train-a"
    )
    verdict = judge(evidence, Queue({job: entry}), NOW, fate)
    never = entry.reason == "DependencyNeverSatisfied"
    if found and not never:
        assert verdict.state in OPEN
    assert verdict.why and "\n" not in verdict.why


@given(ON_SLURM, st.sampled_from([NOT_ASKED, EMPTY]))
def test_no_process_is_asked_after_while_judging(evidence: Evidence, queue: Queue) -> None:
    def ask(*_: object) -> None:
        raise AssertionError("judging is pure")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("os.getpid", "os.kill", "socket.gethostname", "hpcseg.host.process_start"):
            patch.setattr(name, ask)
        assert judge(evidence, queue, NOW) == judge(evidence, queue, NOW)


def test_what_waits_for_a_failed_run_is_blocked_and_says_by_which() -> None:
    evidence = {
        "pack": known(submission=LOCAL, failure=FAILURE),
        "level0": known(submission=LOCAL),
        "train": known(),
        "other": known(),
        "ready": known(done=True),
    }
    needs = {"level0": ["pack"], "train": ["level0"], "ready": ["pack"]}
    verdicts = judge_all(evidence, needs, NOT_ASKED, NOW)
    assert {name: verdict.state for name, verdict in verdicts.items()} == {
        "pack": "failed",
        "level0": "blocked",
        "train": "blocked",
        "other": "new",
        "ready": "done",
    }
    assert "ValueError: no" in verdicts["train"].why


def test_a_job_that_left_the_queue_with_its_ancestors_is_blocked_by_them() -> None:
    evidence = {
        "pack": known(submission=SLURM, heartbeat=ELSEWHERE),
        "train": known(submission=SLURM.model_copy(update={"task": 4})),
    }
    verdicts = judge_all(evidence, {"train": ["pack"]}, EMPTY, NOW)
    assert (verdicts["pack"].state, verdicts["train"].state) == ("lost", "blocked")
    assert verdicts["train"].why.startswith("pack: ") and verdicts["train"].job == "7_4"
    fates = {"7_3": Fate("node", "NODE_FAIL on n3", "n3")}
    assert "NODE_FAIL on n3" in judge_all(evidence, {"train": ["pack"]}, EMPTY, NOW, fates)["train"].why


def test_a_job_of_the_same_id_with_another_name_or_user_is_not_the_runs() -> None:
    ours = ARRAY.model_copy(update={"uid": 5})
    for entry in (QueueEntry("RUNNING", name="mine"), QueueEntry("RUNNING", name=ARRAY.job_name, uid=6)):
        verdict = judge(known(submission=SLURM, array=ours), Queue({"7_3": entry}, uid=5), NOW)
        assert (verdict.state, verdict.job) == ("lost", "") and "left the queue" in verdict.why
    entry = QueueEntry("RUNNING", name=ARRAY.job_name, uid=5)
    assert judge(known(submission=SLURM, array=ours), Queue({"7_3": entry}, uid=5), NOW).state == "running"


def test_what_another_cluster_or_another_user_may_have_is_unknown_and_never_lost() -> None:
    there = known(submission=SLURM, array=ARRAY.model_copy(update={"cluster": "big", "uid": 5}))
    big, small = Cluster("big", 1001, shows_others=False), Cluster("small", 1001, shows_others=True)
    assert judge(there, Queue({}, uid=5, cluster=big), NOW).state == "lost"
    elsewhere = judge(there, Queue({}, uid=5, cluster=small), NOW)
    assert elsewhere.state == "unknown" and "submitted to the cluster big, and this one is small" in elsewhere.why
    hidden = judge(there, Queue({}, uid=6, cluster=big), NOW)
    assert hidden.state == "unknown" and "user with number 5" in hidden.why
    assert judge(there, Queue({}, uid=6, cluster=replace(big, shows_others=True)), NOW).state == "lost"
    assert judge(there, Queue({}, uid=6), NOW).state == "unknown"  # nobody could be asked


def test_held_is_a_state_with_the_command_that_releases_it() -> None:
    for entry in (QueueEntry("PENDING", "launch failed requeued held", restarts=1), QueueEntry("SPECIAL_EXIT")):
        verdict = judge(known(submission=SLURM), Queue({"7_3": entry}), NOW)
        assert verdict.state == "held" and verdict.why.endswith("until it is released: scontrol release 7_3")
    failed = judge(known(submission=SLURM, failure=FAILURE), Queue({"7_3": QueueEntry("REQUEUE_HOLD")}), NOW)
    assert failed.state == "held" and "python: ValueError: no" in failed.why


def test_a_cause_is_said_once() -> None:
    again = Failure(time=1.0, cause="requeued", message="requeued: Slurm did not take it back", traceback="")
    assert judge(known(submission=SLURM, failure=again), EMPTY, NOW).why == "requeued: Slurm did not take it back"


def test_the_jobs_of_a_renamed_or_copied_folder_do_not_work_on_its_runs() -> None:
    for state in ("PENDING", "RUNNING"):
        entry = QueueEntry(state, name=ARRAY.job_name)
        at = ARRAY.model_copy(update={"root": "/old"})
        renamed = judge(known(submission=SLURM, array=at, moved="renamed"), Queue({"7_3": entry}), NOW)
        assert (renamed.state, renamed.job) == ("lost", "7_3") and "/old, which was renamed" in renamed.why
        copied = judge(known(submission=SLURM, array=at, moved="copied"), Queue({"7_3": entry}), NOW)
        assert (copied.state, copied.job) == ("stopped", "") and "its job works in /old" in copied.why
    beat = replace(ELSEWHERE, time=NOW - 5)
    fresh = known(submission=SLURM, array=at, heartbeat=beat, moved="renamed")
    assert judge(fresh, Queue({"7_3": entry}), NOW).state == "running"  # it writes here


def test_attempts_are_counted_as_their_budget_does() -> None:
    def ended(number: int, cause: Cause, progress: int) -> Attempt:
        one = Attempt(number, "7_3", "n1", 10.0 * number, restart=number)
        return replace(one, cause=cause, ended=10.0 * number + 1, progress_ended=progress)

    attempts = tuple(ended(number, "killed", progress=9) for number in range(2, 6))
    found = known(submission=SLURM, attempts=(*attempts, ended(6, "killed", progress=0)))
    verdict = judge(found, Queue({"7_3": QueueEntry("PENDING", "BeginTime", restarts=5)}), NOW)
    assert "after killed 1 of 2 on n1" in verdict.why


def test_a_run_that_goes_on_in_a_process_here_has_no_job_for_others_to_wait_for() -> None:
    evidence = known(submission=SLURM, heartbeat=ALIVE)
    assert [judge(evidence, answer, NOW).job for answer in (EMPTY, Queue({}, "no answer"))] == ["", "7_3"]
    assert judge(evidence, queue(j7_3="RUNNING"), NOW).job == "7_3"
