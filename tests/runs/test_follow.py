from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.runs.evidence import Verdict
from hpcseg.runs.follow import follow, write_output
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.queue import Queue, QueueEntry
from tests.arrays import write_new_array
from tests.waiting import PATIENCE_S

Waiter = Callable[..., None]
RUNNING = QueueEntry("RUNNING", "None", node="n1")
PENDING = QueueEntry("PENDING", "Resources")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that is task 3 of an array."""
    root = tmp_path / "runs"
    run = RunDir.of(root, "train", "r")
    run.path.mkdir(parents=True)
    (run.path / "run.json").write_text("{}")
    array = ArrayRecord(
        tag="train-a",
        stage="train",
        runs=("r",),
        tasks=(3,),
        submitted=1.0,
        host="h",
        submitter=Process(pid=1, pid_start=1.0),
        asked=Asked(minutes=1, memory_mb=1),
        job_id="7",
    )
    write_new_array(root, array)
    run.write_submission(Submission(backend="slurm", submitted=1.0, array="train-a", task=3))
    return run


class Following:
    """`follow` in a thread, against a queue that the test sets."""

    def __init__(self, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entry: QueueEntry | None = PENDING
        self.written = ""
        self.notes: list[str] = []
        self.verdict: Verdict | None = None
        monkeypatch.setattr("hpcseg.runs.states.read_queue", self._queue)
        self.thread = threading.Thread(target=self._follow, args=(run,), daemon=True)
        self.thread.start()

    def _queue(self) -> Queue:
        return Queue({} if self.entry is None else {"7_3": self.entry})

    def _follow(self, run: RunDir) -> None:
        self.verdict = follow(run, self._write, self.notes.append, poll_s=0.01, judge_s=0.05)

    def _write(self, text: str) -> None:
        self.written += text


def test_following_waits_for_output_and_goes_on_over_a_requeue_until_the_run_is_done(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, wait_for: Waiter
) -> None:
    log = run.runs_root / "slurm" / "train-a" / "7_3_0_log.out"
    following = Following(run, monkeypatch)
    wait_for(lambda: bool(following.notes))
    assert following.notes == ["r is queued: Slurm job 7_3 is PENDING (Resources); waits for output, Ctrl-C ends"]
    following.entry = RUNNING
    log.write_bytes("first µ".encode()[:-1])  # a character that is not whole yet
    wait_for(lambda: following.written == "first ")
    following.entry = QueueEntry("PENDING", "BeginTime", restarts=1)
    wait_for(lambda: any("r is requeued" in note for note in following.notes))
    with log.open("ab") as file:  # the next attempt appends
        file.write("µ\n".encode()[1:] + b"second\n")
    error = log.with_suffix(".err")
    error.write_text("warning\n")
    wait_for(lambda: "warning" in following.written)
    following.entry = None
    (run.path / "result.json").write_text(json.dumps({"id": run.id, "sets": {}}))
    following.thread.join(PATIENCE_S)
    assert following.written == "first µ\nsecond\nwarning\n"
    assert following.verdict is not None and following.verdict.state == "done"
    assert following.notes.index(str(log)) < following.notes.index(str(error))


def test_following_a_run_that_fails_ends_with_the_reason(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, wait_for: Waiter
) -> None:
    following = Following(run, monkeypatch)
    following.entry = RUNNING
    wait_for(lambda: bool(following.notes))
    (run.runs_root / "slurm" / "train-a" / "7_3_0_log.err").write_text("ValueError: no\n")
    run.write_error(ValueError("no"))
    following.thread.join(PATIENCE_S)
    assert following.written == "ValueError: no\n"
    assert following.notes[-1] == "r is failed: python: ValueError: no"


def test_a_file_that_is_written_anew_is_read_from_its_beginning(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, wait_for: Waiter
) -> None:
    log = run.runs_root / "slurm" / "train-a" / "7_3_0_log.out"
    log.write_text("a long first attempt\n")
    following = Following(run, monkeypatch)
    wait_for(lambda: following.written != "")
    log.write_text("anew\n")
    wait_for(lambda: following.written == "a long first attempt\nanew\n")
    following.entry = None
    (run.path / "result.json").write_text(json.dumps({"id": run.id, "sets": {}}))
    following.thread.join(PATIENCE_S)


def test_the_output_is_written_file_by_file_the_latest_at_the_end(run: RunDir) -> None:
    folder = run.runs_root / "slurm" / "train-a"
    (folder / "7_3_0_log.err").write_text("errors\n")
    time.sleep(0.02)
    (folder / "7_3_0_log.out").write_text("results\n")
    (folder / "7_4_0_log.out").write_text("of another task\n")
    written: list[str] = []
    notes: list[str] = []
    write_output(run, written.append, notes.append)
    assert written == ["errors\n", "results\n"]
    assert notes == [str(folder / "7_3_0_log.err"), str(folder / "7_3_0_log.out")]
