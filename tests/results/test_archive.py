"""Records: tables are made again from them to the last digit; they are added to, and say nothing of a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.results.archive import archive, merged, portable
from hpcseg.results.collect import collect
from hpcseg.results.export import write_collection
from hpcseg.results.page.circumstances import read_data
from hpcseg.results.page.ledger import read_ledger
from hpcseg.results.page.report import render_report
from hpcseg.runs.applied import read_sweep_record
from tests.results.conftest import SweepFiles


@pytest.fixture
def files(sweep_files, as_scores) -> SweepFiles:
    """Four runs, one of them without a result; what they say of their machine is in every file."""
    files = sweep_files()
    for strategy in ("baseline", "transfer"):
        for fold in range(2):
            scores = as_scores(test=[0.5 + 1 / 3 * fold, [0.25, 2 / 3], None])
            left = strategy == "transfer" and fold
            run = files.run(None if left else scores, strategy=strategy, labelled=4, fold=fold)
            if not left:
                files.write(run, {"id": run, "sets": scores, "training": TRAINING, "hardware": HARDWARE})
    files.record |= {"file": "/home/me/study.toml", "overrides": ["data.splits=/home/me/my splits/s.csv"]}
    files.record |= {"needs": {"transfer-4-0": ["level0", "packed"]}, "stages": {"pretrain": ["level0"]}}
    pretrained = files.root / "pretrain" / "level0" / "training.json"
    pretrained.parent.mkdir(parents=True)
    pretrained.write_text(json.dumps({"seconds": 30}))
    labelled = {"store": "pack/p/store.h5", "cases": ["a", "b"]}
    spec = {"stage": "train", "id": "baseline-4-0", "config": files.record["runs"][0]["config"], "labelled": labelled}
    spec |= {"validation": labelled, "spacing_zyx": [1, 1, 1], "classes": [], "padding": 0, "pyramid_clip": None}
    path = files.root / "train" / "baseline-4-0" / "run.json"
    path.write_text(json.dumps(spec | {"validation_scans": []}))
    files.record["figures"] = [{"name": "curve", "kind": "curve"}]
    files.save()
    (files.root / "sweeps" / "study" / "study.toml").write_text('[run]\ndata.splits = "/home/me/s.csv"\n')
    return files


TRAINING = {"seconds": 60, "reading": [{"path": "/home/me/store.h5"}], "checkpoint": {"time": 1}}
HARDWARE = {"device": "CPU", "threads": 1, "host": "my-machine"}


def test_tables_of_records_are_those_of_the_runs_to_the_byte(files: SweepFiles, tmp_path: Path) -> None:
    records = tmp_path / "records"
    done = archive(collect(files.root), records)
    assert (len(done.new), done.same, done.replaced) == (3, (), ())
    for root in (files.root, records):
        write_collection(collect(root), tmp_path / f"{root.name}-tables", figures=False)
    names = {path.name for path in (tmp_path / "records-tables").iterdir()}
    assert "main-list.md" in names
    for name in names:
        assert (tmp_path / "runs-tables" / name).read_text() == (tmp_path / "records-tables" / name).read_text()
    assert [run.seconds for run in collect(records).runs] == [60, 60, 90, None]
    assert collect(records).runs[0].labelled_cases == ("a", "b")


def test_a_report_is_made_of_records_alone(files: SweepFiles, tmp_path: Path) -> None:
    archive(collect(files.root), tmp_path / "records")
    collection = collect(tmp_path / "records")
    states = {entry.id: (entry.state, entry.hours) for entry in read_ledger(collection)}
    hour = pytest.approx(1 / 60)
    assert states == {f"{name}-4-{fold}": ("done", hour) for name in ("baseline", "transfer") for fold in (0, 1)} | {
        "transfer-4-1": ("new", None)
    }
    assert read_data(collection).splits[0].cases == ("a", "b")
    assert "baseline-4-0" in render_report(collection)


def test_records_say_nothing_of_the_machine(files: SweepFiles, tmp_path: Path) -> None:
    archive(collect(files.root), tmp_path / "records")
    texts = [path.read_text() for path in (tmp_path / "records").rglob("*") if path.is_file()]
    assert len(texts) == 3 + 3
    for word in ("/home", "me/", "my-machine", str(tmp_path), "store.h5"):
        assert not [text for text in texts if word in text], word
    assert portable("data.splits='~/a b/c.csv'") == "data.splits='c.csv'"


def test_a_later_run_adds_to_them_and_nothing_is_replaced_unasked(files: SweepFiles, as_scores, tmp_path: Path) -> None:
    records = tmp_path / "records"
    archive(collect(files.root), records)
    files.write("transfer-4-1", {"id": "transfer-4-1", "sets": as_scores(test=[0.5])})
    done = archive(collect(files.root), records)
    assert (done.new, len(done.same)) == (("transfer-4-1",), 3)
    files.write("baseline-4-0", {"id": "baseline-4-0", "sets": as_scores(test=[0.75])})
    before = {path: path.read_text() for path in records.rglob("*.json")}
    with pytest.raises(BadInput, match=r"another result of the same run.*--force"):
        archive(collect(files.root), records)
    assert before == {path: path.read_text() for path in records.rglob("*.json")}
    assert archive(collect(files.root), records, force=True).replaced == ("baseline-4-0",)
    with pytest.raises(BadInput, match="the folder of the runs themselves"):
        archive(collect(records), records)


def test_a_record_knows_the_labelled_cases_when_the_folder_no_longer_does(files: SweepFiles, tmp_path: Path) -> None:
    records = tmp_path / "records"
    archive(collect(files.root), records)
    (files.root / "train" / "baseline-4-0" / "run.json").unlink()
    assert len(archive(collect(files.root), records).same) == 3
    assert read_data(collect(records)).splits[0].cases == ("a", "b")


def test_cells_of_an_earlier_application_stay(files: SweepFiles, as_scores, tmp_path: Path) -> None:
    records = tmp_path / "records"
    archive(collect(files.root), records)
    files.record["runs"] = []
    files.run(as_scores(test=[0.5]), strategy="baseline", labelled=8, fold=0)
    files.run(as_scores(test=[0.5]), strategy="baseline", labelled=4, fold=0, kernel=3)
    files.save()
    archive(collect(files.root), records)
    there = {run.id: run for run in collect(records).runs}
    assert set(there) == {f"{s}-4-{f}" for s in ("baseline", "transfer") for f in (0, 1)} | {
        "baseline-8-0",
        "baseline-4-0-3",
    }
    assert there["transfer-4-0"].seconds == 90


def test_of_a_cell_that_both_have_the_later_run_counts() -> None:
    cell = {"grid": "main", "axes": {"fold": 0}, "number": 3}
    other = {"grid": "main", "axes": {"fold": 1}, "number": 4}
    runs = merged(
        [{"id": "new", "config": {}, "cells": [cell]}],
        [
            {"id": "old", "config": {}, "cells": [cell | {"number": 0}]},
            {"id": "new", "config": {}, "cells": [other]},
        ],
    )
    assert [(run["id"], run["cells"]) for run in runs] == [("new", [cell, other])]


@pytest.mark.parametrize("came", [True, False])
def test_a_key_with_one_value_that_came_or_went_leaves_no_former_run_in_the_cell(came: bool) -> None:
    short, long = {"fold": 0}, {"fold": 0, "training.weight_decay": 1e-4}
    now, before = (long, short) if came else (short, long)
    other = {"grid": "other", "axes": {"fold": 0}}
    runs = merged(
        [{"id": "new", "config": {}, "cells": [{"grid": "main", "axes": now}]}],
        [{"id": "old", "config": {}, "cells": [{"grid": "main", "axes": before}, other]}],
    )
    assert [(run["id"], [cell["grid"] for cell in run["cells"]]) for run in runs] == [
        ("new", ["main"]),
        ("old", ["other"]),
    ]


def test_seconds_that_another_folder_does_not_know_stay_known(files: SweepFiles, tmp_path: Path) -> None:
    records = tmp_path / "records"
    archive(collect(files.root), records)
    (files.root / "pretrain" / "level0" / "training.json").unlink()
    archive(collect(files.root), records)
    assert read_sweep_record(records, "study")["seconds"]["level0"] == 30


def test_a_sweep_file_of_a_name_that_no_file_has_is_left_out(files: SweepFiles, tmp_path: Path) -> None:
    files.record["file"] = "x" * 300
    archive(collect(files.save()), tmp_path / "records")
    assert {path.name for path in (tmp_path / "records" / "sweeps" / "study").iterdir()} == {"sweep.json", "runs.json"}
