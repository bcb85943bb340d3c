"""Axes: the sweep file's order, whichever run came first, and what rows and columns are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.results.collect import collect
from hpcseg.results.collection import Place, Run
from hpcseg.results.tables.axes import as_toml, label, sort_axis
from hpcseg.results.tables.latex import to_latex
from hpcseg.results.tables.rendering import to_markdown, to_text
from hpcseg.results.tables.tables import Table, build_table
from hpcseg.study.tables import TableDefinition

Cells = list[tuple[str, int, dict[str, Any]]]


@pytest.fixture
def settings(sweep_files, as_scores) -> Table:
    """Two grids that vary one key each around a run that both have; the runs are recorded as a plan meets them."""
    files = sweep_files()

    def run(name: str, dsc: float, cells: Cells) -> None:
        files.run(as_scores(validation=[dsc]), name=name)
        files.record["runs"][-1]["cells"] = [
            {"grid": grid, "number": number, "axes": axes} for grid, number, axes in cells
        ]

    run("small", 0.6, [("Kernel", 0, {"network.kernel": 3})])
    run("kept", 0.8, [("Kernel", 1, {"network.kernel": 5}), ("Loss", 3, {"training.loss": "dice_ce"})])
    run("focal", 0.7, [("Loss", 2, {"training.loss": "focal"})])
    definition = TableDefinition(
        name="t",
        rows="grid",
        columns="choice",
        sets=("validation",),
        baseline=2,
        row_labels={"Kernel": "Kernel size 3 vs. 5", "grid": "Setting"},
        column_labels={"1": "first", "2": "second"},
    )
    return build_table(definition, collect(files.save()))


def test_choices_count_in_the_order_of_the_sweep_file(settings: Table) -> None:
    assert (settings.rows, settings.columns) == (("Kernel", "Loss"), (1, 2))
    means = {(row, column): cell.mean for (_, row, column), cell in settings.cells.items()}
    assert means == {("Kernel", 1): 0.6, ("Kernel", 2): 0.8, ("Loss", 1): 0.7, ("Loss", 2): 0.8}
    assert settings.contrasts["validation", "Loss", 1].mean == pytest.approx(-0.1)
    assert not settings.notes


def test_an_axis_with_a_role_is_no_choice(sweep_files, as_scores) -> None:
    files = sweep_files()
    for labelled in (4, 8):
        for kernel in (3, 5):
            files.run(as_scores(validation=[0.5]), labelled=labelled, kernel=kernel, fold=0)
    table = build_table(TableDefinition(name="t", columns="choice", sets=("validation",)), collect(files.save()))
    assert (table.rows, table.columns) == ((4, 8), (1, 2))


def test_labels_replace_values_wherever_a_table_is_read(settings: Table) -> None:
    for text in (to_text(settings), to_markdown(settings), to_latex(settings)):
        for name in ("Setting", "Kernel size 3 vs. 5", "Loss", "first", "second"):
            assert name in text
    assert "Higher than second in 0 of 2 cells" in to_markdown(settings)


def test_labels_are_keyed_by_values_as_toml_writes_them() -> None:
    assert [as_toml(value) for value in (True, 8, 0.5, "all", (16, 24))] == ["true", "8", "0.5", "all", "16, 24"]


@given(st.lists(st.integers(1, 200), unique=True), st.randoms(use_true_random=False))
def test_labelled_values_sort_by_number_with_all_at_the_end(numbers: list[int], random) -> None:
    values: list[int | str] = [*numbers, "all"]
    random.shuffle(values)
    assert sort_axis(values) == (*sorted(numbers), "all")


def test_strategies_stand_as_in_the_paper_and_other_values_as_met() -> None:
    assert sort_axis(["multitask", "transfer", "baseline"]) == ("baseline", "transfer", "multitask")
    assert sort_axis(["tune_3", "freeze_all", "tune_3"]) == ("tune_3", "freeze_all")
    assert [label(value) for value in ("baseline", "transfer", "multitask", 8, (16, 24))] == [
        "Baseline", "S-TL", "S-MTL", "8", "16, 24",
    ]  # fmt: skip


def test_numbers_of_any_size_are_sorted() -> None:
    assert sort_axis([10**400, 2.5, 3]) == (2.5, 3, 10**400)


def test_a_section_is_an_axis_of_text() -> None:
    run = Run("a", Path("a"), {"data": {"folds": 2, "dataset": "Tiny"}}, (), None)
    assert run.axis(Place(grid="main", axes={"fold": {}}), "fold") == "{}"
    assert run.axis(Place(grid="main", axes={}), "data") == '{"dataset": "Tiny", "folds": 2}'
