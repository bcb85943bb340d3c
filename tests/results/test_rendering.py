"""Renderers: every format has the cells, and marks what is missing (test_paper_tables has the paper's)."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from hpcseg.results.collect import collect
from hpcseg.results.tables.latex import to_latex
from hpcseg.results.tables.machine_readable import to_csv, to_json, to_summary_csv
from hpcseg.results.tables.rendering import to_markdown, to_text
from hpcseg.results.tables.tables import Table, build_table
from hpcseg.study.tables import TableDefinition


@pytest.fixture
def small(sweep_files, as_scores) -> Table:
    files = sweep_files()
    for fold in range(2):
        files.run(as_scores(test=[0.5, 0.7]), strategy="baseline", labelled=2, fold=fold)
        files.run(as_scores(test=[0.6, 0.7]) if fold == 0 else None, strategy="transfer", labelled=2, fold=fold)
        files.run(None, strategy="multitask", labelled=2, fold=fold)
    definition = TableDefinition(name="small_table", title="Gains & losses", sets=("test",))
    return build_table(definition, collect(files.save()))


def test_markdown_marks_what_is_missing(small: Table) -> None:
    text = to_markdown(small)
    assert "| 2 | 0.600 ± 0.115 | 0.650 ± 0.071 (1/2) | – (0/2) |" in text
    assert "| 2 | +0.050 [0.000, +0.100] *, p = 1.000 |  |" in text
    assert "| 2 | 0.600 0.600 | 0.650 – | – – |" in text
    assert "2 of 3 cells have only k of their m runs" in text
    assert "Higher than Baseline in 1 of 1 cells (100%)" in text


def test_text_has_the_cells_and_the_remarks(small: Table) -> None:
    text = to_text(small)
    assert "0.650 ± 0.071 (1/2)" in text
    assert "+0.050 [0.000, +0.100] *" in text
    assert "0.650 –" in text
    assert "sample SD over cases" in text
    assert "\x1b" not in text


def test_latex_is_a_booktabs_table_with_its_signs_escaped(small: Table) -> None:
    text = to_latex(small)
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){2-4}", r"\multicolumn{3}{c}{Test set}"):
        assert part in text
    assert r"Gains \& losses" in text
    assert r"n & Baseline & S-TL & S-MTL \\" in text
    assert r"2 & 0.600 $\pm$ 0.115 & 0.650 $\pm$ 0.071 (1/2) & -- (0/2) \\" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3  # cells, differences, single runs
    assert_latex_is_sound(text)


def test_what_begins_with_a_bracket_is_no_argument_of_the_line_before(sweep_files, as_scores) -> None:
    files = sweep_files()
    for strategy in ("baseline", "transfer", "multitask"):
        files.run(as_scores(test=[0.5]), strategy=strategy, labelled=2, fold=0)
    labels = {"transfer": "S-TL, all of it pretrained on what there is [12]", "multitask": "[13]"}
    definition = TableDefinition(name="t", sets=("test",), column_labels=labels, row_labels={"2": "*two"})
    text = to_latex(build_table(definition, collect(files.save())))
    assert "{}[13]" in text and "{}*two" in text and not re.search(r"\\\\\s*[\[*]", text)


def assert_latex_is_sound(text: str) -> None:
    """Environments and braces are closed in order, and every row has as many cells as the tabular has columns."""
    opened = []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    bare = re.sub(r"\\[{}%&]", "", text)
    assert bare.count("{") == bare.count("}")
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [
            re.sub(r"\\&", "", line) for line in body.splitlines() if line.endswith(r"\\") and line.strip() != r"\\"
        ]
        for row in rows:
            spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            assert row.count("&") + 1 + sum(spans) - len(spans) == len(columns), row


def test_a_wide_latex_table_is_stacked_and_a_wider_one_shrunk(sweep_files, as_scores) -> None:
    files = sweep_files()
    for strategy in ("baseline", "transfer", "multitask"):
        for levels in range(4):
            scores = as_scores(validation=[0.5, 0.7], test=[0.4, 0.5])
            files.run(scores, strategy=strategy, levels=levels, labelled="[8]", fold=0)
    collection = collect(files.save())
    for columns, over, shapes in (
        ("strategy", ("fold", "levels"), ["rcccccc"]),
        ("levels", ("fold", "strategy"), ["rcccc"]),
    ):
        text = to_latex(build_table(TableDefinition(name="t", columns=columns, over=over), collection))
        assert_latex_is_sound(text)
        assert re.findall(r"tabular\}\{@\{\}(\w+)@", text)[: len(shapes)] == shapes
        assert "{}[8] &" in text
    assert r"\resizebox{\linewidth}{!}{%" in text


def test_csv_has_a_line_per_case_and_one_per_missing_run(small: Table) -> None:
    lines = list(csv.DictReader(io.StringIO("".join(to_csv(small)))))
    assert [line["status"] for line in lines].count("present") == 6
    missing = [(line["strategy"], line["fold"]) for line in lines if line["status"] == "missing"]
    assert missing == [("transfer", "1"), ("multitask", "0"), ("multitask", "1")]
    first = lines[0]
    assert (first["set"], first["labelled"], first["fold"], first["case"], first["dsc"]) == (
        "test",
        "2",
        "0",
        "test0",
        "0.5",
    )


def test_the_summary_has_a_line_per_cell(small: Table) -> None:
    lines = {line["strategy"]: line for line in csv.DictReader(io.StringIO(to_summary_csv(small)))}
    assert float(lines["baseline"]["mean"]) == pytest.approx(0.6)
    assert (lines["transfer"]["runs_present"], lines["transfer"]["runs_expected"]) == ("1", "2")
    assert float(lines["transfer"]["difference"]) == pytest.approx(0.05)
    assert lines["multitask"]["mean"] == ""


def test_json_holds_values_missing_runs_and_contrasts(small: Table) -> None:
    document = json.loads("".join(to_json(small)))
    cells = {cell["strategy"]: cell for cell in document["cells"]}
    assert document["baseline"] == "baseline"
    assert (document["improved"], document["compared"]) == (1, 1)
    assert cells["transfer"]["missing"] == [[1]]
    assert cells["baseline"]["replicate_means"] == [{"replicate": [0], "mean": 0.6}, {"replicate": [1], "mean": 0.6}]
    assert cells["baseline"]["values"][1] == {"replicate": [0], "case": "test1", "dsc": 0.7}
    assert cells["multitask"]["mean"] is None
