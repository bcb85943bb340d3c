"""What `hpcseg inspect` prints is short for large datasets, whole where that is asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import BadInput
from hpcseg.screens.inspection import MANY_CASES, report_tables

RUNNER = CliRunner()


def case(n: int, *remarks: str) -> dict[str, Any]:
    return {
        "case": f"case_{n:03d}",
        "shape_zyx": [10 + n, 20, 30],
        "spacing_zyx": [2.0, 1.0, 1.0],
        "orientation": "LPS",
        "dtype": "int16",
        "intensity_min": -1000.0,
        "intensity_max": 400.0,
        "intensity_percentiles": {"0.5": -990.0, "50": 12.5, "99.5": 300.0},
        "labels": {"0": 5, "1": 7},
        "label_ml": {"1": 0.5},
        "remarks": list(remarks),
    }


def text(report: dict[str, Any], *, every: bool = False) -> str:
    console = Console(width=160, file=io.StringIO())
    for item in report_tables(report, every=every):
        console.print(item)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def dataset(*cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "dataset",
        "name": "Liver [ct]",
        "training": list(cases),
        "test": [],
        "problems": [],
        "warnings": [],
    }


def test_a_small_dataset_has_a_row_per_case() -> None:
    shown = text(dataset(case(0), case(1, "spacing"), {"case": "broken", "remarks": ["problem"]}))
    assert "name Liver [ct]" in shown
    assert "case_000 │ training │ 10 × 20 × 30 │ 2 × 1 × 1 │ LPS  │ int16 │ -990, 12.5, 300 │ 1: 0.5   │" in shown
    assert "broken" in shown
    assert "spacing" in shown


def test_a_large_dataset_has_a_summary_and_what_stands_out() -> None:
    cases = [case(n, *(["likely one scan"] if n < 10 else [])) for n in range(200)]
    cases[150] = case(150, "extent", "likely one scan")
    cases[170] = {"case": "case_170", "remarks": ["problem"]}
    shown = text(dataset(*cases))
    assert "200 cases, of which 2 stand out; --all lists every case" in shown
    assert shown.index("case_170") < shown.index("case_150")
    assert "case_005" not in shown
    assert "voxels along z      │ 199   │ 10     │ 109    │ 209" in shown
    assert len(shown.splitlines()) < MANY_CASES
    assert text(dataset(*cases), every=True).count("case_") == 200


def test_where_not_one_of_many_cases_can_be_read_they_are_listed_all_the_same() -> None:
    shown = text(dataset(*({"case": f"case_{n:03d}", "remarks": ["problem"]} for n in range(100))))
    assert "100 cases, of which 100 stand out" in shown and shown.count("case_") == MANY_CASES


def test_no_more_than_40_cases_are_listed() -> None:
    assert text(dataset(*(case(n, "clipped") for n in range(100)))).count("case_") == MANY_CASES


def test_a_store_and_a_run() -> None:
    stored = {"case": "a", "shape_zyx": [4, 5, 6], "labelled": True, "foreground_voxels": 12, "size_bytes": 2_500_000}
    report = {
        "kind": "store",
        "pyramid_clip": [-200.0, 400.0],
        "size_bytes": 5_000_000,
        "read_speed": {"boxes_per_s": 512.3, "mb_per_s": 600.0},
        "cases": [{"case": "b", "remarks": ["problem"]}, stored | {"remarks": []}],
        "problems": ["broken"],
    }
    shown = text(report)
    assert "pyramid_clip -200 to 400  size_bytes 5.0 MB  read_speed 512.3 boxes/s, 600 MB/s" in shown
    assert "4 × 5 × 6" in shown
    assert (
        text({"kind": "run", "id": "x", "submission": {"backend": "local"}})
        == "kind run  id x  submission backend: local\n"
    )


def test_the_command_prints_notes_and_writes_pictures(tiny_dataset: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["inspect", str(tiny_dataset), "--png", str(tmp_path / "png"), "--workers", "1"])
    assert result.exit_code == 0
    assert "case_008" in result.stdout
    assert f"9 pictures in {tmp_path / 'png'}" in result.stdout
    again = RUNNER.invoke(app, ["inspect", str(tiny_dataset), "--png", str(tmp_path / "png")])
    assert isinstance(again.exception, BadInput)
    assert "case_001.png: exists" in str(again.exception)
    whole = RUNNER.invoke(app, ["inspect", str(tiny_dataset), "--json"])
    assert len(json.loads(whole.stdout)["training"]) == 6


def test_a_run_has_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadInput, match="a run has no pictures"):
        RUNNER.invoke(app, ["inspect", str(tmp_path), "--png", str(tmp_path)], catch_exceptions=False)
