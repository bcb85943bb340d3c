from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.grids import expand
from hpcseg.study.sweepfile import read_sweep

Writer = Callable[..., Path]
GOOD = """\
[sweep]
title = "A study"

[run]
data.dataset = "D"
training.epochs = 7

[[grid]]
name = "a"
strategy = ["baseline", "transfer"]
labelled = [2, "all"]
fold = [0, 1]

[[grid]]
name = "b"
strategy = "multitask"
labelled = 4
network.levels = 2
network.maps = [[8, 16], [16, 16]]

[[table]]
name = "t"
grid = "a"
rows = "labelled"
columns = "strategy"
"""


def message_of(write: Writer, text: str, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        expand(read_sweep(write(text), overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_blocks_are_products_over_run_and_add_up(write_sweep: Writer) -> None:
    cells = expand(read_sweep(write_sweep(GOOD)))
    assert len(cells) == 2 * 2 * 2 + 2
    assert {cell.config.training.epochs for cell in cells} == {7}
    assert cells[0].axes == {"strategy": "baseline", "labelled": 2, "fold": 0}
    assert [cell.config.network.maps for cell in cells[-2:]] == [(8, 16), (16, 16)]
    assert cells[-1].axes["labelled"] == 4


OF_BOTH = """
[[table]]
name = "both"
rows = "choice"
columns = "grid"
baseline = "a"

[[figure]]
name = "f"
grid = ["a", "b"]
kind = "box"
"""


def test_a_column_that_set_takes_away_is_not_compared_with(write_sweep: Writer) -> None:
    path = write_sweep(GOOD.replace('columns = "strategy"', 'columns = "strategy"\nbaseline = "transfer"'))
    of = {words: read_sweep(path, words).tables[0].baseline for words in ((), ("labelled=2",), ("strategy=baseline",))}
    assert [*of.values()] == ["transfer", "transfer", "none"]


def test_some_grids_alone_are_as_if_the_file_had_only_these(write_sweep: Writer) -> None:
    path = write_sweep(GOOD.replace('"b"\n', '"b"\nfold = 0\n') + OF_BOTH)
    sweep = read_sweep(path, (), ["b", "b"])
    assert [grid.name for grid in sweep.grids] == ["b"] and len(expand(sweep)) == 2
    (both,), (figure,) = sweep.tables, sweep.figures
    assert (both.name, both.baseline, figure.grid, sweep.chosen) == ("both", "none", ("b",), ("b",))
    assert [table.baseline for table in read_sweep(path, (), ["a"]).tables] == [None, "a"]
    with pytest.raises(BadInput, match=r"^--grid c: .*study\.toml has no such grid; it has: a, b$"):
        read_sweep(path, (), ["a", "c"])
    path = write_sweep(GOOD.replace("network.levels = 2", "network.levels = 99"))
    with pytest.raises(BadInput, match=rf"^{path}:18: network\.levels"):
        expand(read_sweep(path, (), ["b"]))


def test_the_name_is_the_files(write_sweep: Writer) -> None:
    assert read_sweep(write_sweep(GOOD)).name == "study"


def test_no_grid_is_one_run(write_sweep: Writer) -> None:
    assert len(expand(read_sweep(write_sweep("[run]\nlabelled = 3\n")))) == 1


def test_an_override_replaces_run_values_and_lists_of_the_grid(write_sweep: Writer) -> None:
    cells = expand(read_sweep(write_sweep(GOOD), ["labelled=8", "training.epochs=2", "strategy=baseline"]))
    assert {cell.config.labelled for cell in cells} == {8}
    assert {cell.config.training.epochs for cell in cells} == {2}
    assert len(cells) == 2 + 2
    assert all(cell.axes["labelled"] == 8 for cell in cells)


def test_an_override_with_a_list_is_an_axis(write_sweep: Writer) -> None:
    cells = expand(read_sweep(write_sweep(GOOD), ["seed=[0, 1, 2]"]))
    assert len(cells) == 3 * 10
    assert {cell.axes["seed"] for cell in cells} == {0, 1, 2}


def test_an_override_that_may_be_one_value_or_several_is_refused_with_both_ways_to_write_it(
    write_sweep: Writer,
) -> None:
    path = write_sweep(GOOD)
    with pytest.raises(BadInput, match=r"one value as in .run., or several") as caught:
        read_sweep(path, ["data.foreground=[[1],[2, 3]]"])
    one, several = re.findall("'(.*?)'", str(caught.value))
    for written, values in ((one, [((1,), (2, 3))]), (several, [((1,),), ((2, 3),)])):
        runs = expand(read_sweep(path, [written]))
        assert list(dict.fromkeys(run.config.data.foreground for run in runs)) == values


def test_the_last_of_two_overrides_of_a_key_counts(write_sweep: Writer) -> None:
    assert {c.config.fold for c in expand(read_sweep(write_sweep(GOOD), ["fold=[0,1]", "fold=1"]))} == {1}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("labelled = [2", "labeled = [2", "study.toml:11: unknown key 'labeled' in [[grid]]; did you mean 'labelled'?"),
        ("epochs = 7", "epoks = 7", "study.toml:6: unknown key 'training.epoks' in [run]; did you mean"),
        ("data.dataset", "date.dataset", "study.toml:5: unknown key 'date.dataset' in [run]; did you mean 'data."),
        ("[[table]]", "[[tabel]]", "study.toml:21: unknown table 'tabel'; did you mean 'table'?"),
        ("epochs = 7", "epochs = [7, 8]", "study.toml:6: training.epochs = [7, 8]: [run] takes one value"),
        ("epochs = 7", "epochs = 0", "study.toml:6: training.epochs = 0 is not allowed: should be greater than or"),
        (
            '"baseline", "tr',
            '"basline", "tr',
            "study.toml:10: strategy = 'basline' is not allowed: should be 'baseline'",
        ),
        ('[2, "all"]', '[2, "al"]', "study.toml:11: labelled = 'al' is not allowed: should be a whole number"),
        ("fold = [0, 1]", "fold = [0, 5]", "study.toml:12: fold 5 does not exist: data.folds gives folds 0 to 4"),
        ("[[8, 16], [16, 16]]", "[[8], [16, 16]]", "study.toml:18: network: maps lists 1 numbers for 2 levels"),
        ("labelled = [2", "labelled = []\nseed = [2", "study.toml:11: labelled = []: the list is empty"),
        ('rows = "labelled"', 'row = "labelled"', "study.toml:24: unknown key 'row'; did you mean 'rows'? ([[table]])"),
        (
            'rows = "labelled"',
            'rows = "labeled"',
            "study.toml:24: rows = 'labeled': grid 'a' has no such axis; did you",
        ),
        ('rows = "labelled"', 'metric = "hd59"', "study.toml:24: metric = 'hd59' is not allowed; did you mean 'hd95'?"),
        (
            'columns = "strategy"',
            'columns = "grid"\nbaseline = "A"',
            "study.toml:26: baseline = 'A': the table shows no such [[grid]]",
        ),
        (
            'rows = "labelled"',
            'rows = "labelled"\nover = ["class"]',
            "study.toml:25: over = 'class': a table has no such",
        ),
        (
            'columns = "strategy"',
            'columns = "strategy"\nbaseline = "tranfser"',
            "study.toml:26: baseline = 'tranfser': the table shows no such column of 'strategy'",
        ),
        ('grid = "a"', 'grid = "c"', "study.toml:23: grid = 'c': there is no such [[grid]]; valid: a, b"),
        ('name = "b"', 'name = "a"', "study.toml:15: name = 'a': another [[grid]] has this name"),
        ("fold = [0, 1]", "fold = 0\nseed = [0, 1]", "table 't' gives no role to the axis 'seed' of grid 'a'"),
        (
            'name = "t"',
            'name = "../t"',
            "study.toml:22: name = '../t' is not allowed: should be a name of letters, digits",
        ),
        ('name = "t"\n', "", "study.toml:21: name is missing ([[table]])"),
        ('name = "t"', 'name = "runs"', "study.toml:22: name = 'runs': what else is collected has a file runs.csv"),
        ('name = "b"', "name = 5", "study.toml:15: name = 5 is not allowed: should be a text in quotes ([[grid]])"),
        ('[[grid]]\nname = "a"', '[grid]\nname = "a"', "study.toml"),
        (
            'title = "A study"',
            'titel = "A study"',
            "study.toml:2: unknown key 'titel'; did you mean 'title'? ([sweep])",
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_remedy(
    write_sweep: Writer, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    assert expected in message_of(write_sweep, GOOD.replace(old, new, 1))


def test_a_wrong_override_is_named_as_such(write_sweep: Writer) -> None:
    assert message_of(write_sweep, GOOD, "labelled=none").startswith("labelled=none: labelled = 'none' is not allowed")
    assert (
        message_of(write_sweep, GOOD, "labeled=2")
        == "labeled=2: unknown key 'labeled'; did you mean 'labelled'? (hpcseg keys)"
    )
    assert message_of(write_sweep, GOOD, "fold=9").startswith("fold=9: fold 9 does not exist")


def test_figures_need_a_known_kind(write_sweep: Writer) -> None:
    text = GOOD + '\n[[figure]]\nname = "f"\nkind = "pie"\n'
    assert "study.toml:29: kind = 'pie' is not allowed: should be 'box'" in message_of(write_sweep, text)
    text = text.replace("pie", "kernels")
    assert "study.toml:29: kind = 'kernels' is now called 'filters'" in message_of(write_sweep, text)


@pytest.mark.parametrize("name", ["paper", "demo", "hippocampus", "liver-ct"])
def test_the_projects_own_sweep_files_are_valid(name: str) -> None:
    path = Path(__file__).parents[2] / "sweeps" / f"{name}.toml"
    if not path.exists():
        pytest.skip(f"{path} is not there yet")
    assert expand(read_sweep(path))
