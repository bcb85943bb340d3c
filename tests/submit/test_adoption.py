from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from hpcseg.paths import array_folder
from hpcseg.runs.records import ArrayRecord, Asked, Process, read_array
from hpcseg.slurm.queue import Queue, QueueEntry
from hpcseg.submit import adoption
from hpcseg.submit.adoption import abandoned, adopt, adopt_or_give_up
from tests.arrays import write_new_array

GONE = Process(pid=os.getpid(), pid_start=-1.0)  # this number, but another process
EMPTY = Queue({})
BROKEN = Queue({}, "Socket timed out")


def record(tag: str = "train-1", *, submitter: Process = GONE, age_s: float = 5.0, **more: object) -> ArrayRecord:
    facts = {"host": socket.gethostname(), "submitted": time.time() - age_s, **more}
    return ArrayRecord(
        tag=tag,
        stage="train",
        runs=("a", "b"),
        tasks=(0, 4),
        submitter=submitter,
        asked=Asked(minutes=1, memory_mb=1),
        **facts,  # type: ignore[arg-type]
    )


def queue_of(**arrays: str) -> Queue:
    """Arrays by tag (with _ for -), with Slurm's ids."""
    return Queue(
        {f"{job}_4": QueueEntry("PENDING", name=f"hpcseg-{tag.replace('_', '-')}") for tag, job in arrays.items()}
    )


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "BETWEEN_S", 0.0)


def test_an_unconfirmed_array_in_the_queue_gets_its_id_and_a_confirmed_one_keeps_it() -> None:
    records = [record("train-1"), record("train-2"), record("train-3", job_id="7"), record("train-4", refused="no")]
    found = adopt(records, queue_of(train_1="12", train_3="13", train_4="14"))
    assert [(r.tag, r.job_id) for r in found] == [("train-1", "12")]


def test_an_array_is_abandoned_when_nobody_is_left_to_confirm_it() -> None:
    now = time.time()
    parent = Process(pid=os.getppid(), pid_start=_started(os.getppid()))
    assert abandoned(record(submitter=GONE), now)
    assert abandoned(record(submitter=Process.this()), now)
    assert not abandoned(record(submitter=parent), now)
    assert not abandoned(record(host="elsewhere"), now) and abandoned(record(host="elsewhere", age_s=100), now)
    assert not abandoned(record(job_id="7"), now) and not abandoned(record(refused="no"), now)


def _started(pid: int) -> float:
    from hpcseg.host import process_start

    return process_start(pid) or 0.0


def test_what_two_looks_do_not_find_is_given_up_and_what_the_second_finds_is_adopted(tmp_path: Path) -> None:
    for tag in ("train-1", "train-2"):
        array_folder(tmp_path, tag).mkdir(parents=True)
    answers = [EMPTY, BROKEN, queue_of(train_2="12"), EMPTY]
    one, two, three = adopt_or_give_up(
        tmp_path,
        [record("train-1"), record("train-2"), record("train-3", job_id="5")],
        "died",
        ask=lambda: answers.pop(0),
    )
    assert (one.refused, two.job_id, three.job_id) == ("died", "12", "5")
    assert read_array(tmp_path, "train-1") == one and read_array(tmp_path, "train-2") == two
    assert answers == [EMPTY]


def test_one_look_is_enough_where_slurm_itself_refused(tmp_path: Path) -> None:
    array_folder(tmp_path, record().tag).mkdir(parents=True)
    answers = [EMPTY]
    (known,) = adopt_or_give_up(tmp_path, [record()], "Invalid partition", sure=True, ask=lambda: answers.pop(0))
    assert known.refused == "Invalid partition"


def test_a_queue_that_does_not_answer_leaves_everything_as_it_is(tmp_path: Path) -> None:
    before = record()
    write_new_array(tmp_path, before)
    assert adopt_or_give_up(tmp_path, [before], patience_s=0.0, ask=lambda: BROKEN) == [before]
    assert read_array(tmp_path, before.tag) == before
