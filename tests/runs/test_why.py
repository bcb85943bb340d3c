from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from hpcseg.runs.attempts import Attempt, write_attempt
from hpcseg.runs.evidence import State, Verdict
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.status import RunStatus, Totals, add_up
from hpcseg.runs.why import explain, inspect_run, next_step
from hpcseg.screens.inspection import report_tables
from hpcseg.screens.status_tables import ATTENTION, ROWS, print_status, status_tables, watch_status, why_lines
from hpcseg.screens.terminal import STYLES
from hpcseg.slurm.queue import Queue, QueueEntry
from hpcseg.study.plan import Plan
from hpcseg.training.control import Control
from tests.arrays import write_new_array


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run on Slurm that failed for want of memory, after an attempt that a node ended; its pack is done."""
    root = tmp_path / "runs"
    pack, run = RunDir.of(root, "pack", "pack-a"), RunDir.of(root, "train", "train-a")
    for each in (pack, run):
        each.path.mkdir(parents=True)
        (each.path / "run.json").write_text("{}")
    (pack.path / "done.json").touch()
    (pack.path / "store.h5").touch()
    array = ArrayRecord(
        tag="train-1",
        stage="train",
        runs=("train-a",),
        tasks=(3,),
        submitted=time.time() - 7200,
        host="login",
        submitter=Process(pid=1, pid_start=1.0),
        asked=Asked(minutes=60, memory_mb=900, gpus=1),
        job_id="7",
    )
    write_new_array(root, array)
    run.write_submission(Submission(backend="slurm", submitted=array.submitted, host="login", array="train-1", task=3))
    first = Attempt(number=1, job="7_3", node="n1", began=time.time() - 7200, gpus=1)
    second = Attempt(number=2, job="7_3", node="n2", began=time.time() - 3600, gpus=1, restart=1)
    for attempt, cause in ((first, "node"), (second, "memory")):
        write_attempt(run.path, attempt)
        over = {"ended": attempt.began + 1800, "cause": cause, "lost_s": 600.0, "detail": f"detail of {cause}"}
        write_attempt(run.path, Attempt(**{**vars(attempt), **over}))
    control = Control(run.path, attempt=2)
    control.beat(phase="training", step=3, steps=9)
    control.close("failed")
    run.write_error(MemoryError("900 MB were not enough"))
    (root / "slurm" / "train-1" / "7_3_0_log.err").write_text("".join(f"line {n}\n" for n in range(100)))
    folder = root / "sweeps" / "study"
    folder.mkdir(parents=True)
    stages = {"pack": ["pack-a"], "pretrain": [], "train": ["train-a"]}
    record = {"name": "study", "file": "/x/my study.toml", "stages": stages, "needs": {"train-a": ["pack-a"]}}
    (folder / "sweep.json").write_text(json.dumps(record))
    return run


def test_why_tells_everything_that_is_known_of_a_run(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = QueueEntry("COMPLETING", "None", "hpcseg-train-1", 1, "n2")
    monkeypatch.setattr("hpcseg.runs.states.read_queue", lambda: Queue({"7_3": entry}))
    report = explain(run.runs_root, "train-a")
    assert json.dumps(report)
    assert (report["state"], report["cause"]) == ("failed", "memory")
    assert report["next"].startswith("hpcseg logs train-a; hpcseg sweep '/x/my study.toml' submits it again")
    assert report["needs"] == [{"id": "pack-a", "state": "done", "why": "its result is there"}]
    assert report["asked"]["memory_mb"] == 900 and report["submission"]["array"] == "train-1"
    assert report["queue"]["job"] == "7_3" and report["queue"]["node"] == "n2"
    assert [attempt["cause"] for attempt in report["attempts"]] == ["node", "memory"]
    assert (report["gpu_hours"], report["gpu_hours_lost"]) == (1.0, 0.3333)
    assert report["heartbeat"]["step"] == 3 and report["heartbeat"]["age_s"] >= 0
    assert report["log"]["lines"][-1] == "line 99" and len(report["log"]["lines"]) == 12
    assert {"run.json", "job.json", "error.json", "attempts.jsonl"} <= set(report["files"])
    text = "\n".join(why_lines(report))
    for words in ("train-a is failed: memory: ", "COMPLETING", "on n1, job 7_3, 30 min, node: detail", "1.00 used"):
        assert words in text


def test_why_says_what_squeue_said_when_it_fails(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.clear_failure()
    monkeypatch.setattr("hpcseg.runs.states.read_queue", lambda: Queue({}, "Socket timed out"))
    report = explain(run.runs_root, "train-a")
    assert report["state"] == "unknown" and report["queue"] == {"error": "Socket timed out"}


def test_inspecting_a_run_says_what_it_is_and_what_is_wrong(plan: Plan) -> None:
    pack, train, _ = (plan.run(run_id) for run_id in plan.stages)
    assert inspect_run(train.path)["problems"] == []
    assert inspect_run(train.path)["strategy"] == "baseline"
    assert all(report_tables(inspect_run(run.path)) for run in (pack, train))
    pack.write_error(ValueError("no"))
    assert inspect_run(pack.path)["problems"] == [f"{pack.id}: python: ValueError: no"]


def test_every_state_has_a_next_step_a_style_and_a_place() -> None:
    for state in get_args(State):
        assert next_step("r", Verdict(state, "pack-a: failed"), "")
    assert set(get_args(State)) == set(STYLES) == set(ATTENTION)


def many(count: int) -> list[RunStatus]:
    queued = [RunStatus(f"run{n}", "train", "queued", f"Slurm job 7_{n} is PENDING (Resources)") for n in range(count)]
    return [*queued, RunStatus("bad", "train", "failed", "python: [no]"), RunStatus("good", "train", "running", "")]


def shown(lines: Sequence[RunStatus], rows: int = ROWS) -> str:
    screen = Console(file=io.StringIO(), width=120)
    for item in status_tables(lines, add_up(lines), rows):
        screen.print(item)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_of_many_runs_those_that_deserve_attention_come_first() -> None:
    text = shown(many(500))
    assert text.index("bad") < text.index("good") < text.index("run0")
    assert f"and {502 - ROWS} more; --all lists every run" in text
    assert "500 queued" in text and "waiting: 500 Resources" in text and "python: [no]" in text
    few = shown(many(5))
    assert few.index("run4") < few.index("bad") and "more" not in few


def test_dice_stands_beside_the_loss_and_a_run_that_is_done_has_its_dsc() -> None:
    running = RunStatus("a", "train", "running", "", phase="training", step=3, steps=9, loss=0.25, dice=0.8125)
    done = RunStatus("b", "train", "done", "", phase="evaluating", step=9, steps=9, loss=0.2, dice=0.85, dsc=0.875)
    rows = [line.split() for line in shown([running, done]).splitlines() if "train" in line]
    assert [[cell for cell in row if cell not in "│┃"] for row in rows] == [
        ["train", "a", "running", "training", "3/9", "0.2500", "0.812"],
        ["train", "b", "done", "DSC", "0.875", "0.2000", "0.850"],
    ]


def test_all_of_many_runs_are_plain_lines_and_quick(capsys: pytest.CaptureFixture[str]) -> None:
    lines = many(10_000)
    began = time.process_time()
    print_status(lines, add_up(lines), every=True)
    assert time.process_time() - began < 1.5
    text = capsys.readouterr().out
    assert text.count("Slurm job") == 10_000 and "10000 queued" in text


def test_a_run_that_is_new_while_one_watches_is_a_change(capsys: pytest.CaptureFixture[str]) -> None:
    story = iter([["a"], ["a", "b"], []])

    def read() -> tuple[list[RunStatus], Totals]:
        there = next(story)
        lines = [RunStatus(name, "train", "queued", "") for name in there] or [RunStatus("a", "train", "done", "")]
        return lines, add_up(lines)

    watch_status(read, interval_s=0.0)
    assert "b  not there → queued" in capsys.readouterr().out


def test_watching_without_a_terminal_prints_changes_and_outlives_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def states() -> Iterator[str]:
        yield from ("queued", "queued", "gone", "running", "done")

    story = states()

    def read() -> tuple[list[RunStatus], Totals]:
        state = next(story)
        if state == "gone":
            raise OSError(5, "Input/output error", "runs")
        lines = [RunStatus("r", "train", state, f"why {state}")]  # type: ignore[arg-type]
        return lines, add_up(lines)

    watch_status(read, interval_s=0.0)
    told = [line.split("  ", 1)[-1] for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "1 queued",
        "runs: Input/output error; tries again",
        "r  queued → running  why running",
        "1 running",
        "r  running → done  why done",
        "1 done",
    ]
