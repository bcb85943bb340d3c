"""Stale results and tables of several versions: marked, and said why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hpcseg.config import RunConfig
from hpcseg.results.collect import collect
from hpcseg.results.collection import Run
from hpcseg.results.tables.rendering import to_markdown
from hpcseg.results.tables.tables import build_table
from hpcseg.runs.parents import note_parents
from hpcseg.study.plan import Plan
from hpcseg.study.tables import TableDefinition
from hpcseg.submit.record import record
from tests.planned import run_here

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
Make = Callable[..., Run]


@pytest.fixture
def one_run(sweep_files, as_scores) -> Make:
    """A finished run of a sweep, collected; `planned` and `asked`: keys of the sweep and of run.json."""

    def make(
        planned: dict[str, Any] | None = None,
        asked: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        younger: dict[str, float] | None = None,
        copied: bool = False,
    ) -> Run:
        files = sweep_files()
        run = files.run(None, strategy="baseline", labelled=4, fold=0)
        keys = {"strategy": "baseline", "labelled": 4, "fold": 0}
        config = RunConfig.model_validate(keys | (planned or {})).model_dump(mode="json")
        files.record["runs"][0]["config"] = config
        made = {"id": run, "sets": as_scores(validation=[0.8]), **keys, "seed": 0, "finished": NOW.isoformat()}
        path = files.write(run, made | (result or {}))
        spec = RunConfig.model_validate(keys | (asked or planned or {})).model_dump(mode="json")
        (path.parent / "run.json").write_text(json.dumps({"id": run, "config": spec}))
        (path.parent / "training.json").write_text("{}")
        for name in ("result.json", "run.json", "training.json"):
            time = NOW.timestamp() + (younger or {}).get(name, 0.0) + 1e6 * copied
            os.utime(path.parent / name, (time, time))
        (found,) = collect(files.save()).runs
        return found

    return make


def test_a_result_of_what_the_sweep_asks_for_is_not_stale(one_run: Make) -> None:
    assert one_run().stale == ""


def test_a_result_that_says_it_is_of_other_keys_is_stale(one_run: Make) -> None:
    assert one_run(result={"labelled": 8}).stale == "it is of labelled = 8, the sweep has 4"
    assert one_run(result={"seed": 3}).stale == "it is of seed = 3, the sweep has 0"


def test_a_run_that_was_planned_otherwise_is_stale_and_the_keys_are_named(one_run: Make) -> None:
    stale = one_run(planned={"network": {"kernel": 5}}, asked={"network": {"kernel": 3}}).stale
    assert stale == "run.json has other values than the sweep (network.kernel)"


def test_keys_that_change_no_result_make_nothing_stale(one_run: Make) -> None:
    assert one_run(asked={"inference": {"save_masks": True}}, planned={"inference": {"save_masks": False}}).stale == ""
    assert one_run(asked={"training": {"checkpoint_epochs": 7}}).stale == ""


@pytest.mark.parametrize(("name", "word"), [("run.json", "planned again"), ("training.json", "trained again")])
def test_a_run_that_went_on_after_it_was_measured_is_stale(one_run: Make, name: str, word: str) -> None:
    assert word in one_run(younger={name: 60.0}).stale
    assert one_run(younger={name: -60.0}).stale == ""
    assert one_run(younger={name: 60.0}, copied=True).stale == ""  # then the times are those of the copying


def test_stale_results_are_named_and_marked_in_their_cells(sweep_files, as_scores) -> None:
    files = sweep_files()
    for fold in range(2):
        run = files.run(as_scores(test=[0.5, 0.7]), strategy="baseline", labelled=2, fold=fold)
    code = {"version": "0.1.0", "commit": "abc"}
    files.write(run, {"id": run, "fold": 0, "code": code, "sets": as_scores(test=[0.5, 0.7])})
    collection = collect(files.save())
    assert collection.stale == (run,)
    assert "stale: it is of fold = 0, the sweep has 1" in collection.problems[0]
    text = to_markdown(build_table(TableDefinition(name="t", sets=("test",)), collection))
    assert "| 2 | 0.600 ± 0.115‡ |" in text
    assert f"‡ Stale results (1): {run}." in text


def test_students_of_a_stale_teacher_are_stale_and_name_it(sweep_files, as_scores) -> None:
    files = sweep_files()
    teacher = files.run(None, strategy="baseline", labelled=2, fold=0)
    files.write(teacher, {"id": teacher, "fold": 1, "sets": as_scores(test=[0.5, 0.7])})
    student = files.run(as_scores(test=[0.6, 0.8]), strategy="selftrain", labelled=2, fold=0)
    alone = files.run(as_scores(test=[0.6, 0.8]), strategy="baseline", labelled=4, fold=0)
    files.record |= {"stages": {"label": ["labels"]}, "needs": {student: ["labels"], "labels": [teacher], alone: []}}
    collection = collect(files.save())
    assert collection.stale == (teacher, student)
    assert f"stale: {teacher}, which taught it, is stale; delete it" in collection.problems[1]


def test_students_of_labels_whose_network_was_made_anew_are_stale(sweep_files, as_scores) -> None:
    files = sweep_files()
    teacher = files.run(as_scores(test=[0.5]), strategy="baseline", labelled=2, fold=0)
    student = files.run(as_scores(test=[0.6]), strategy="selftrain", labelled=2, fold=0)
    files.record |= {"stages": {"label": ["labels"]}, "needs": {student: ["labels"], "labels": [teacher]}}
    root = files.save()
    model, labels = Path("train", teacher, "model.pt"), root / "label" / "labels"
    (root / model).write_bytes(b"as it was")
    labels.mkdir(parents=True)
    note_parents(labels, [model])
    assert collect(root).stale == ()
    (root / model).write_bytes(b"trained anew")
    assert collect(root).stale == (student,)
    assert "labels, which taught it, are of a network that was made anew" in collect(root).problems[0]


def test_a_damaged_record_of_parents_costs_that_run_alone(sweep_files, as_scores) -> None:
    files = sweep_files()
    for fold in range(2):
        run = files.run(as_scores(test=[0.5, 0.7]), strategy="selftrain", labelled=2, fold=fold)
    root = files.save()
    (root / "train" / run / "parents.json").write_text("{")
    collection = collect(root)
    assert collection.missing == (run,)
    assert "parents.json" in collection.problems[0]


def test_results_that_were_not_made_alike_are_marked_and_told(sweep_files, as_scores) -> None:
    files = sweep_files()
    for labelled, torch, device in ((2, "2.11.0", "H100"), (4, "2.11.0", "H100"), (8, "2.12.0", "CPU")):
        run = files.run(None, strategy="baseline", labelled=labelled, fold=0)
        made = {"code": {"version": "0.1.0", "torch": torch}, "hardware": {"device": device}}
        files.write(run, {"id": run, "sets": as_scores(test=[0.5, 0.7])} | made)
    collection = collect(files.save())
    text = to_markdown(build_table(TableDefinition(name="t", sets=("test",)), collection))
    assert "| 4 | 0.600 ± 0.141 |" in text
    assert "| 8 | 0.600 ± 0.141§ |" in text
    assert "§ Not all made alike: torch 2.11.0 (2 runs), 2.12.0 (1 run)." in text
    assert "hardware H100 (2 runs), CPU (1 run)." in text
    assert "hpcseg" not in text
    alike = build_table(TableDefinition(name="t", sets=("test",)), collect(_only(files, 2)))
    assert not alike.mixed.lines


def test_results_of_two_commits_of_one_version_are_marked(sweep_files, as_scores) -> None:
    files = sweep_files()
    for fold, commit in enumerate(("3f9a2c1b04d7", "3f9a2c1b04d7", "3f9a2c1b04d7 with local changes", None)):
        run = files.run(None, strategy="baseline", labelled=2 + fold // 2, fold=fold)
        files.write(run, {"id": run, "sets": as_scores(test=[0.5]), "code": {"version": "0.1.0", "commit": commit}})
    collection = collect(files.save())
    table = build_table(TableDefinition(name="t", sets=("test",)), collection)
    changed = "0.1.0 (3f9a2c1b04d7 with local changes)"
    assert table.mixed.lines == (f"hpcseg 0.1.0 (3f9a2c1b04d7) (2 runs), 0.1.0 (1 run), {changed} (1 run)",)
    assert [bool(cell.odd) for cell in table.cells.values()] == [False, True]
    assert collection.versions == ("0.1.0", changed, "0.1.0 (3f9a2c1b04d7)")


def _only(files: Any, labelled: int) -> Path:
    files.record["runs"] = [run for run in files.record["runs"] if run["config"]["labelled"] == labelled]
    return files.save()


def test_a_result_that_says_by_digests_what_it_is_of_is_not_judged_by_times(plan_study: Callable[..., Plan]) -> None:
    """Clocks jump, and times change by copying."""
    plan = plan_study()
    run_here(plan, plan.stages)
    record(plan)
    (run_id,) = plan.of_stage("train")
    run = plan.run(run_id).path
    later = (run / "result.json").stat().st_mtime + 60
    for name in ("run.json", "training.json"):
        os.utime(run / name, (later, later))
    (found,) = collect(plan.runs_root).runs
    assert found.result is not None and found.stale == ""
    head, rest = (run / "model.pt").read_bytes().split(b"\n", 1)
    (run / "model.pt").write_bytes(head[:-4] + b"0000\n" + rest)  # trained anew, and not measured yet
    assert "trained again" in collect(plan.runs_root).runs[0].stale


def test_a_plan_of_brackets_without_end_makes_nothing_stale_and_nothing_fail(sweep_files, as_scores) -> None:
    files = sweep_files()
    run = files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=4, fold=0)
    (files.root / "train" / run / "run.json").write_text('{"id":"x","config":' + "[" * 100_000)
    assert [one.stale for one in collect(files.save()).runs] == [""]
