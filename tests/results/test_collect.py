"""Collecting: which sweep, what is missing, what cannot be used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, LeftOut
from hpcseg.results.collect import collect


def test_a_sweep_is_read_with_its_results(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.5, 0.7]), strategy="baseline", labelled=2, fold=0)
    files.run(None, strategy="baseline", labelled=2, fold=1)
    collection = collect(files.save(), None)
    assert (collection.sweep, collection.chosen) == ("study", "the only sweep")
    assert [run.result is not None for run in collection.runs] == [True, False]
    assert collection.missing == ("baseline-2-1",)
    assert collection.gpu_hours == 0.5
    assert collection.versions == ("0.1.0 (abc)",)
    assert collection.problems == ()


def test_without_a_name_the_sweep_applied_last_is_taken(sweep_files) -> None:
    for name, applied in (
        ("old", "2026-01-01T10:00:00+00:00"),
        ("new", "2026-02-01T10:00:00+00:00"),
        ("mid", "2026-01-15"),
    ):
        root = sweep_files(name=name, applied=applied).save()
    assert collect(root, None).sweep == "new"
    assert "last applied of 3" in collect(root, None).chosen
    assert collect(root, "old").sweep == "old"


def test_the_last_is_the_last_whatever_the_zone_of_its_clock(sweep_files) -> None:
    for name, applied in (("early", "2026-01-01T23:30:00+0900"), ("late", "2026-01-01T20:00:00+0000")):
        files = sweep_files(name=name, applied=applied)
        files.run(None, strategy="baseline", labelled=2, fold=0)
        root = files.save()
    assert collect(root).sweep == "late"


def test_an_unknown_sweep_names_the_nearest(sweep_files) -> None:
    root = sweep_files(name="paper").save()
    with pytest.raises(BadInput, match="'papr'; did you mean 'paper'"):
        collect(root, "papr")


def test_a_folder_without_sweeps_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="hpcseg sweep FILE"):
        collect(tmp_path, None)


def test_a_broken_record_of_the_sweep_is_an_error_that_names_it(sweep_files) -> None:
    root = sweep_files().save()
    (root / "sweeps" / "study" / "sweep.json").write_text(json.dumps({"applied": "yesterday"}))
    with pytest.raises(BadInput, match=r"sweep\.json: name"):
        collect(root, None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"id": "other", "sets": {}}', "is the result of run other"),
        ('{"id": ', "not valid JSON"),
        ('{"id": "baseline-2-0"}', "sets"),
        ('{"id": "baseline-2-0", "sets": {"test": [{"case": "a", "class": 1, "dsc": 1.5}]}}', r"sets\.test\.0\.dsc"),
    ],
)
def test_an_unusable_result_is_missing_and_named(sweep_files, as_scores, content: str, complaint: str) -> None:
    files = sweep_files()
    run = files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=2, fold=0)
    path = files.write(run, content)
    collection = collect(files.save(), None)
    assert collection.missing == (run,)
    assert len(collection.problems) == 1
    assert str(path) in collection.problems[0]
    assert re.search(complaint, collection.problems[0])


@pytest.mark.parametrize("content", ["{", "[]", '{"stage": "train", "of": "another version"}'])
def test_a_run_whose_plan_cannot_be_read_costs_that_run(sweep_files, as_scores, content: str) -> None:
    files = sweep_files()
    name = files.run(as_scores(test=[0.5]), strategy="baseline", labelled=2, fold=0)
    (run,) = collect(files.save()).runs
    (run.folder / "run.json").write_text(content)
    with pytest.warns(LeftOut, match=rf"{name}.run\.json: .*; it is left out"):
        assert run.specification() is None and run.labelled_cases == ()


def test_axes_come_from_the_cell_then_from_the_configuration(sweep_files) -> None:
    files = sweep_files()
    files.run(None, strategy="baseline", fold=0, maps=[16, 24])
    run = collect(files.save(), None).runs[0]
    place = run.places[0]
    assert run.axis(place, "strategy") == "baseline"
    assert run.axis(place, "network.kernel") == 5
    assert run.axis(place, "maps") == (16, 24)
    assert run.axis(place, "network.nothing") is None


def test_a_sweep_without_definitions_gets_a_table_and_figures_per_grid(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.5], test=[0.4]), grids=["a", "b"], strategy="baseline", labelled=2, fold=0)
    collection = collect(files.save(), None)
    assert [(table.name, table.rows, table.columns, table.sets) for table in collection.tables] == [
        ("a", "labelled", "strategy", ("validation", "test")),
        ("b", "labelled", "strategy", ("validation", "test")),
    ]
    kinds = [(figure.kind, figure.set) for figure in collection.figures if figure.grid == ("a",)]
    assert ("box", "validation") in kinds
    assert ("box", "test") in kinds
    assert {kind for kind, _ in kinds} == {"box", "curve", "examples", "learning"}


def test_a_definition_of_another_version_is_read_in_the_words_of_this_one(sweep_files) -> None:
    files = sweep_files()
    files.record["tables"] = [{"name": "t", "rows": "fold", "colour": "red"}]
    files.record["figures"] = [{"name": "f", "kind": "kernels", "depth": 3}]
    collection = collect(files.save())
    assert (collection.tables[0].rows, collection.figures[0].kind) == ("fold", "filters")


def test_tables_of_grids_with_any_name_stay_in_their_folder(sweep_files) -> None:
    files = sweep_files()
    for grid in ("main", "Method 1, iso", "../up", "Method-1;iso", "Método"):
        files.run(None, grids=grid, strategy="baseline", fold=grid)
    collection = collect(files.save())
    names = [table.name for table in collection.tables]
    assert names == ["main", "Method-1-iso", "grid3-..-up", "grid4-Method-1-iso", "Método"]
    assert [table.grid for table in collection.tables][2] == ("../up",)
    assert len({figure.name for figure in collection.figures}) == len(collection.figures)


def test_results_are_collected_without_importing_torch_or_matplotlib() -> None:
    code = (
        "import sys, hpcseg.results.collect, hpcseg.results.export; "
        "import hpcseg.results.tables.tables, hpcseg.results.tables.rendering; "
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_seconds_that_are_no_number_are_not_known(sweep_files, as_scores) -> None:
    files = sweep_files()
    run = files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=2, fold=0)
    files.write(run, {"id": run, "sets": as_scores(validation=[0.5]), "training": {"seconds": "12"}})
    assert [one.seconds for one in collect(files.save()).runs] == [None]
