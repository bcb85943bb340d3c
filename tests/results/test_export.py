"""Export: the folder that collect leaves."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.results.collect import collect
from hpcseg.results.export import make_tables, write_collection
from hpcseg.results.tables.machine_readable import to_lines
from hpcseg.results.tables.published import read_publication


def test_tables_figures_and_runs_are_written(sweep_files, as_scores, tmp_path: Path) -> None:
    files = sweep_files()
    files.run(as_scores(test=[0.5, 0.7]), grids=["table7", "table8"], strategy="baseline", labelled=2, fold=0)
    files.run(None, grids="table7", strategy="transfer", labelled=2, fold=0)
    files.record["tables"] = [
        {"name": name, "grid": [name], "rows": "labelled", "columns": "strategy"} for name in ("table7", "table8")
    ]
    files.record["figures"] = [{"name": "boxes", "kind": "box", "x": "labelled", "hue": "strategy", "set": "test"}]
    folder = tmp_path / "results"
    paths = write_collection(collect(files.save()), folder)
    endings = (".txt", ".md", "-list.md", ".csv", "-runs.csv", "-summary.csv", ".json", ".tex")
    expected = {f"{name}{ending}" for name in ("table7", "table8") for ending in endings}
    expected |= {"runs.csv", "collection.json", "boxes.png", "boxes.pdf"}
    assert {path.name for path in paths} == {path.name for path in folder.iterdir()} == expected
    assert all(path.stat().st_size > 0 for path in paths)
    assert "S-TL" in (folder / "table7.md").read_text()
    assert "S-TL" not in (folder / "table8.md").read_text()
    runs = list(csv.DictReader((folder / "runs.csv").open()))
    assert [(line["run"], line["grid"], line["state"]) for line in runs] == [
        ("baseline-2-0", "table7", "finished"),
        ("baseline-2-0", "table8", "finished"),
        ("transfer-2-0", "table7", "missing"),
    ]
    summary = json.loads((folder / "collection.json").read_text())
    assert (summary["runs"], summary["missing"], summary["gpu_hours"]) == (2, ["transfer-2-0"], 0.5)


def test_a_table_that_does_not_fit_leaves_nothing_behind(sweep_files, tmp_path: Path) -> None:
    files = sweep_files()
    files.run(None, strategy="baseline", labelled=2, fold=0)
    files.record["tables"] = [{"name": "t", "rows": "labelled", "columns": "strategie"}]
    with pytest.raises(BadInput, match="strategie"):
        write_collection(collect(files.save()), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_no_two_tables_write_to_one_file(sweep_files, tmp_path: Path) -> None:
    files = sweep_files()
    for grid in ("a", "a-runs", "collection"):
        files.run(None, grids=grid, strategy="baseline", labelled=2, fold=0)
    paths = write_collection(collect(files.save()), tmp_path / "default", figures=False)
    assert len({*paths}) == len(paths) == 2 + 3 * 8
    files.record["tables"] = [{"name": "t", "grid": "a"}, {"name": "t-nsd", "grid": "a", "metric": "nsd"}]
    collection = collect(files.save())
    with pytest.raises(BadInput, match=r"t-nsd.txt: two tables have this file"):
        write_collection(collection, tmp_path / "nsd", tables=make_tables(collection, metrics=["nsd"]), figures=False)
    assert not (tmp_path / "nsd").exists()


def test_a_copy_of_another_metric_stands_beside_its_like(sweep_files, tmp_path: Path) -> None:
    files = sweep_files()
    scores = {"test": [{"case": "a", "class": 1, "dsc": 0.5, "nsd": 0.75}]}
    files.run(scores, strategy="baseline", labelled=2, fold=0)
    collection = collect(files.save())
    for metrics in ([], ["nsd"]):
        tables = make_tables(collection, metrics=metrics)
        write_collection(collection, tmp_path / "a", tables=tables, figures=False)
    (table,) = make_tables(collection, metrics=["nsd"], beside=read_publication(str(tmp_path / "a")))
    assert table.beside is not None and [*table.beside.values.values()] == [(0.75, None)]


def test_a_metric_that_there_is_not_names_the_nearest(sweep_files) -> None:
    files = sweep_files()
    files.run(None, strategy="baseline", labelled=2, fold=0)
    with pytest.raises(BadInput, match="--metric hd59: there is no such metric; did you mean 'hd95'"):
        make_tables(collect(files.save()), metrics=["hd59"])


def test_a_table_of_another_metric_has_no_other_metric_s_title(sweep_files) -> None:
    files = sweep_files()
    files.run(None, strategy="baseline", labelled=2, fold=0)
    titles = {"overlap": ("dsc", "DSC on test cases"), "surface": ("hd95", "HD95 in mm on test cases")}
    files.record["tables"] = [{"name": name, "metric": m, "title": title} for name, (m, title) in titles.items()]
    found = [table.title for table in make_tables(collect(files.save()), metrics=["nsd"])]
    assert found == ["NSD on test cases", "NSD (surface)"]


def test_a_sweep_without_any_result_still_gets_its_tables(sweep_files, tmp_path: Path) -> None:
    files = sweep_files()
    files.run(None, strategy="baseline", labelled=2, fold=0)
    notes: list[str] = []
    write_collection(collect(files.save()), tmp_path / "results", note=notes.append)
    assert "– (0/1)" in (tmp_path / "results" / "main.md").read_text()
    assert len(notes) == 4


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", " =1", "＝1"])
def test_no_cell_is_computed_by_a_spreadsheet(cell: str) -> None:
    lines = to_lines(["head"], [[cell, "-0.5", -1.5, "a=b"]])
    assert list(csv.reader(io.StringIO(lines, newline="")))[1] == [f"'{cell}", "-0.5", "-1.5", "a=b"]
