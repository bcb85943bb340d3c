"""What an application writes of runs that are done: where their scans lie now."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.files import json_text
from hpcseg.paths import RESULT_FILE, RUN_FILE
from hpcseg.results.collect import collect
from hpcseg.results.collection import Collection
from hpcseg.runs.result_file import why_unusable
from hpcseg.runs.status import read_status
from hpcseg.seals import seal_holds, with_seal
from hpcseg.spec import TrainSpec, read_spec, spec_digest, spec_text
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import follow_scans, record
from tests.planned import STUDY

LONG_AGO = 1_700_000_000_123_456_789


@pytest.mark.parametrize("sealed", [True, False])
def test_done_runs_follow_data_that_moved(
    plan_study: Callable[..., Plan], tiny_dataset: Path, tmp_path: Path, sealed: bool
) -> None:
    first = plan_study("fold=[0, 1]")
    for run_id, planned in first.of_stage("train").items():
        run = first.run(run_id).path
        run.mkdir(parents=True)
        text = spec_text(planned.spec)
        (run / RUN_FILE).write_text(text if sealed else planned.spec.model_dump_json())
        result = {"id": run_id, "digest": spec_digest(planned.spec), "sets": {}}
        (run / RESULT_FILE).write_text(with_seal(json_text(result)))
        os.utime(run / RUN_FILE, ns=(LONG_AGO, LONG_AGO))
    record(first)
    moved = tmp_path / "moved"
    shutil.copytree(tiny_dataset, moved / tiny_dataset.name)
    again = plan_study("fold=[0, 1]", data=moved)
    assert again.counts()["train"] == {"done": 2}
    record(again)
    for run_id in again.of_stage("train"):
        run = again.run(run_id).path
        spec = read_spec(run)
        assert isinstance(spec, TrainSpec)
        assert spec.validation_scans and all(case.image.is_relative_to(moved) for case in spec.validation_scans)
        assert spec == again.stages[run_id].spec and (run / RUN_FILE).stat().st_mtime_ns == LONG_AGO
        assert seal_holds((run / RUN_FILE).read_bytes()) and why_unusable(run, run_id) == ""
    assert collect(again.runs_root).stale == () and follow_scans(again) == 0


def test_what_is_not_only_moved_stays(plan_study: Callable[..., Plan], tiny_dataset: Path, tmp_path: Path) -> None:
    plan = plan_study("fold=[0, 1]")
    one, other = plan.of_stage("train")
    run = plan.run(one).path
    run.mkdir(parents=True)
    (run / RUN_FILE).write_text(text := spec_text(plan.stages[other].spec))
    (run / RESULT_FILE).write_text(with_seal(json_text({"id": one, "digest": "", "sets": {}})))
    shutil.copytree(tiny_dataset, tmp_path / "moved" / tiny_dataset.name)
    assert follow_scans(plan_study("fold=[0, 1]", data=tmp_path / "moved")) == 0
    assert (run / RUN_FILE).read_text() == text


def test_some_grids_are_recorded_as_if_the_file_had_only_these(
    write_sweep: Callable[[str], Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    path = write_sweep(STUDY + '[[grid]]\nname = "more"\nlabelled = 1\nfold = 0\n')

    def apply(*grids: str) -> tuple[Plan, Collection]:
        plan = make_plan(read_sweep(path, (), grids), tiny_dataset.parent, tmp_path / "runs")
        record(plan)
        return plan, collect(plan.runs_root)

    more, found = apply("more")
    assert [run.id for run in found.runs] == [*more.of_stage("train")] and len(found.runs) == 1
    assert [table.grid for table in found.tables] == [("more",)]
    assert {line.id for line in read_status(more.runs_root)} == {*more.stages}
    whole, found = apply()
    assert {*more.stages} < {*whole.stages} and not whole.changes.changed and not whole.changes.left_out
    assert [table.grid for table in found.tables] == [("main",), ("more",)]
    assert apply("more")[0].changes.left_out
