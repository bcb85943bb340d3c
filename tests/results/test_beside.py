"""Published tables: our copy is the paper's, what fits stands beside, and what does not is said."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.results.collect import collect
from hpcseg.results.tables.latex import to_latex
from hpcseg.results.tables.published import read_publication, set_beside
from hpcseg.results.tables.rendering import to_markdown, to_text
from hpcseg.results.tables.tables import Table, build_table
from hpcseg.study.tables import TableDefinition

PUBLISHED = Path(__file__).parents[3] / "shared" / "paper" / "published.toml"
STRATEGIES = ("baseline", "transfer", "multitask")
SETS = ("validation", "test")

FILE = """
label = "another study"
[tables.t]
rows = [2, "all"]
columns = ["baseline", "transfer"]
sets.test = [[[0.5, 0.1], [0.625, 0.1]], [[0.8, 0.1], [0.8, 0.1]]]
"""


@pytest.fixture
def ours(sweep_files, as_scores) -> Table:
    files = sweep_files()
    for labelled in (2, "all"):
        for strategy in ("baseline", "transfer"):
            files.run(as_scores(test=[0.5, 0.7]), strategy=strategy, labelled=labelled, fold=0)
    return build_table(TableDefinition(name="t", sets=("test",)), collect(files.save()))


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the paper's numbers (../shared/paper/published.toml) are absent")
def test_our_copy_has_the_papers_numbers_and_no_others() -> None:
    paper = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    tables = read_publication("paper").tables
    expected: dict[str, dict[tuple[str, str, str], list[float]]] = {f"table{n}": {} for n in range(1, 9)}
    chosen = paper["table1"]["chosen"]
    for row, first, second in (
        ("Kernel size 3 vs. 5", paper["table1"]["kernel_3"], chosen),
        ("Patch size 64 vs. 72", paper["table1"]["patch_64"], chosen),
        ("Minibatch size 6 vs. 8", paper["table1"]["batch_6"], chosen),
        ("Focal loss vs. Dice-CE loss", paper["table1"]["focal_loss"], chosen),
        ("Uniform vs. increasing maps", chosen, paper["table1"]["increasing_maps"]),
    ):
        expected["table1"] |= {("validation", row, "1"): first, ("validation", row, "2"): second}
    for table, name in (("table2", "validation"), ("table3", "test")):
        for scheme in set(paper[table]) - {"n"}:
            for n, value in zip(paper[table]["n"], paper[table][scheme], strict=True):
                column = scheme.replace("retrain_r3", "retrain_coarsest")
                expected[table][name, _labelled(n), column] = value
    for table, strategy, label in (("table4", "transfer", "S-TL"), ("table6", "multitask", "S-MTL")):
        for key, row in (("without_validation", f"{label} with U"), ("with_validation", f"{label} with U and V")):
            expected[table] |= {(name, row, strategy): paper[table][key][name] for name in SETS}
    for name in SETS:
        for n in (8, 105):
            for levels, value in zip(paper["table5"]["levels"], paper["table5"][f"{name}_n{n}"], strict=True):
                expected["table5"][name, _labelled(n), str(levels)] = value
        for table in ("table7", "table8"):
            for strategy in STRATEGIES:
                for n, value in zip(paper[table]["n"], paper[table][name][strategy], strict=True):
                    expected[table][name, _labelled(n), strategy] = value
    assert {name: {key: list(pair) for key, pair in one.cells.items()} for name, one in tables.items()} == expected


def _labelled(n: int) -> str:
    return "all" if n == 105 else str(n)


def test_the_papers_75_percent_is_27_of_the_36_cells_of_tables_7_and_8() -> None:
    tables = read_publication("paper").tables
    gains = [
        pair[0] > tables[table].cells[name, row, "baseline"][0]
        for table in ("table7", "table8")
        for (name, row, column), pair in tables[table].cells.items()
        if column != "baseline"
    ]
    assert (sum(gains), len(gains)) == (27, 36)


def test_means_sds_and_differences_stand_beside_in_every_format(ours: Table, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(FILE)
    table = set_beside(ours, read_publication(str(path)), {"Task03_Liver"})
    assert table.beside is not None
    assert table.beside.improved == (1, 2)
    assert "| 2 | 0.500 ± 0.100 (+0.100) | 0.625 ± 0.100 (−0.025) |" in to_markdown(table)
    assert "0.625 ± 0.100 (−0.025)" in to_text(table)
    assert r"2 & 0.500 $\pm$ 0.100 (+0.100) & 0.625 $\pm$ 0.100 ($-$0.025) \\" in to_latex(table)
    told = "Higher than Baseline in 0 of 2 cells (0%), paired by case; another study: 1 of 2 cells (50%)."
    assert told in to_markdown(table)


def test_a_table_of_other_data_is_compared_only_where_it_asks_for_it(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(test=[0.5, 0.7]), strategy="baseline", labelled=105, fold=0)
    collection, paper = collect(files.save()), read_publication("paper")
    table = build_table(TableDefinition(name="table7", sets=("test",)), collection)
    assert set_beside(table, paper, {"Task03_Liver"}).beside is not None
    other = set_beside(table, paper, {"Task04_Hippocampus"})
    assert other.beside is None
    assert "is of Task03_Liver, ours of Task04_Hippocampus" in other.notes[-1]
    asked = build_table(TableDefinition(name="mine", published="table7", sets=("test",)), collection)
    beside = set_beside(asked, paper, {"Task04_Hippocampus"}).beside
    assert beside is not None
    assert list(beside.values.values()) == [(0.884, 0.060)]
    assert "ours of Task04_Hippocampus" in beside.notes[0]
    for definition, why in (
        (TableDefinition(name="mine", sets=("test",)), "no table 'mine'"),
        (TableDefinition(name="table5", sets=("test",)), "no cell"),
        (TableDefinition(name="table7", sets=("test",), metric="hd95"), "is of dsc"),
    ):
        assert why in set_beside(build_table(definition, collection), paper, {"Task03_Liver"}).notes[-1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("label = ", "not valid TOML"),
        ("label = 'a'", "tables"),
        (FILE.replace(", [0.625, 0.1]", ""), "one pair per row and column"),
        (FILE.replace("[0.5, 0.1]", "[0.5]"), "sets.test"),
    ],
)
def test_a_file_in_another_form_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "other.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=complaint):
        read_publication(str(path))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name 'paper', a TOML file or a folder"):
        read_publication(str(tmp_path / "none.toml"))
    with pytest.raises(BadInput, match="no tables there"):
        read_publication(str(tmp_path))


def test_brackets_in_brackets_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("a = " + "[" * 3000 + "]" * 3000)
    with pytest.raises(BadInput, match="not valid TOML"):
        read_publication(str(tmp_path / "other.toml"))
