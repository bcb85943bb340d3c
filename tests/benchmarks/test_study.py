"""The study's texts have what its tables have, these are those of its records, and no record names a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcseg.files import read_json
from hpcseg.inference.metrics import DSC
from hpcseg.results.archive import portable
from hpcseg.results.collect import collect
from hpcseg.results.export import make_tables
from hpcseg.results.tables.listing import to_list
from tests.benchmarks import study, versus

RECORDS = versus.STUDY / "runs"
SWEEPS = sorted(path.name for path in RECORDS.glob("sweeps/*"))


def test_a_place_has_the_tables_text_or_the_picture(tmp_path: Path) -> None:
    (tmp_path / "t.md").write_text("## A title\n\n| a |\n| -- |\n| 1 |\n")
    (tmp_path / "p.png").write_bytes(b"")
    text = "Before.\n<!-- from: t.md -->\nold\n<!-- end -->\n<!-- from: p.png | DSC -->\n<!-- end -->\nAfter.\n"
    text += "<!-- from: none.md -->\nold\n<!-- end -->\n"
    found = study.filled(text, tmp_path / "inner", tmp_path)
    assert found == (
        "Before.\n<!-- from: t.md -->\n\n| a |\n| -- |\n| 1 |\n\n<!-- end -->\n"
        "<!-- from: p.png | DSC -->\n![DSC](../p.png)\n<!-- end -->\nAfter.\n<!-- from: none.md -->\n<!-- end -->\n"
    )
    assert study.filled(found, tmp_path / "inner", tmp_path) == found


@pytest.mark.parametrize("path", study.TEXTS, ids=lambda path: path.name)
def test_the_texts_have_the_tables_of_the_study(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == study.filled(text, path.parent), "make study-tables"


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_tables_are_those_of_the_records(sweep: str) -> None:
    for table in make_tables(collect(RECORDS, sweep)):
        path = versus.STUDY / "tables" / sweep / f"{table.definition.name}-list.md"
        assert path.read_text(encoding="utf-8") == to_list(table), "make study-tables"


def test_the_numbers_beside_the_demonstration_s_picture_are_those_of_its_records() -> None:
    """Of the case and the fold that the picture shows, then of all of them: each row of a column, then the next."""
    demo = collect(RECORDS, "demo")
    (table,) = make_tables(demo)
    shown = {
        (run.config["labelled"], run.config["strategy"]): run.result.sets["test"].by_case(DSC)[0]["test_003"]
        for run in demo.runs
        if run.result is not None and run.config["fold"] == 0
    }
    places = [(n, strategy) for n in (2, 4) for strategy in ("baseline", "transfer", "multitask")]
    numbers = [shown[place] for place in places] + [table.mean(("test", *place)) for place in places]
    caption = re.search(r"^\*Made by `make demo`.*?\*$", study.TEXTS[0].read_text(encoding="utf-8"), re.M | re.S)
    assert caption is not None
    assert re.findall(r"0\.\d{3}", caption[0]) == [f"{number:.3f}" for number in numbers]


def test_the_comparison_with_nnunet_is_that_of_its_records() -> None:
    records = [read_json(path) for path in sorted((versus.STUDY / "nnunet").glob("*.json"))]
    path = versus.STUDY / "tables" / "nnunet.md"
    assert not records or path.read_text(encoding="utf-8") == versus.table(records), "make study-tables"


def test_no_record_names_a_machine() -> None:
    for path in versus.STUDY.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert text == portable(text) and '"host"' not in text, path
