from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpcseg.runs import states
from hpcseg.runs.attempts import Attempt, write_attempt
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.records import ArrayRecord, Asked, Process, Submission, read_array
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.slurm.queue import Queue
from hpcseg.study.plan import Plan
from tests.arrays import write_new_array


def test_what_ends_while_states_are_read_is_not_lost(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = plan.run(next(iter(plan.stages)))
    pack.write_submission(Submission(backend="slurm", submitted=time.time() - 100, array="pack-a"))

    def ends_meanwhile() -> Queue:
        (pack.path / "done.json").touch()
        (pack.path / "store.h5").touch()
        return Queue({})

    monkeypatch.setattr("hpcseg.runs.states.read_queue", ends_meanwhile)
    assert read_states([pack]).verdicts[pack.id].state == "done"


def test_evidence_of_many_runs_reads_each_array_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, names = tmp_path / "runs", [f"r{n}" for n in range(20)]
    array = ArrayRecord(
        tag="train-a",
        stage="train",
        runs=tuple(names),
        tasks=tuple(range(20)),
        submitted=1.0,
        host="h",
        submitter=Process(pid=1, pid_start=1.0),
        asked=Asked(minutes=1, memory_mb=1),
        job_id="7",
    )
    write_new_array(root, array)
    for task, name in enumerate(names):
        run = RunDir.of(root, "train", name)
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text("{}")
        run.write_submission(Submission(backend="slurm", submitted=1.0, array="train-a", task=task))
        write_attempt(run.path, Attempt(number=1, job=f"7_{task}", node="n1", began=1.0))
    read: list[str] = []

    def reading(root: Path, tag: str) -> ArrayRecord | None:
        read.append(tag)
        return read_array(root, tag)

    monkeypatch.setattr(states, "read_array", reading)
    runs = [*(RunDir.of(root, "train", name) for name in names), RunDir.of(root, "train", "new")]
    found = read_states(runs, attempts=True).evidence
    assert read == ["train-a"]
    assert [found[name].job for name in names] == [f"7_{n}" for n in range(20)]
    assert all(len(found[name].attempts) == 1 for name in names)
    assert found["new"] == Evidence()
