"""Tables: exact means and SDs, honest cells, paired contrasts."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import BadInput
from hpcseg.inference.metrics import METRICS
from hpcseg.results.collect import collect
from hpcseg.results.scores import Score
from hpcseg.results.tables.cells import Cell, Replicate, bootstrap_interval, contrast_cells
from hpcseg.results.tables.rendering import to_markdown
from hpcseg.results.tables.statistics import bootstrap_both, compare
from hpcseg.results.tables.tables import Table, build_table, improved_in_all
from hpcseg.study.tables import SetName, TableDefinition

VALIDATION: tuple[SetName, ...] = ("validation",)


def _cell(values: dict[tuple[int, str], float]) -> Cell:
    nested: dict[Replicate, dict[str, float]] = {}
    for (fold, case), value in values.items():
        nested.setdefault((fold,), {})[case] = value
    return Cell(nested, 1, 1)


@pytest.mark.parametrize("cases", [("ab", "ab", "ba"), ("ab", "cd", "ef"), ("abc", "b", "cda")])
def test_a_contrast_takes_each_case_with_its_values_of_all_folds(cases: tuple[str, ...]) -> None:
    ours = {(fold, case): (fold + 2) * ord(case) / 1000 for fold, own in enumerate(cases) for case in own}
    theirs = {(fold, case): 0.1 * fold for fold, own in enumerate(cases) for case in own}
    units: dict[str, list[float]] = {}
    pairs: dict[tuple[int, str], list[float]] = {}
    for (fold, case), value in ours.items():
        units.setdefault(case, []).append(value - theirs[fold, case])
        pairs[fold, case] = [value - theirs[fold, case]]
    contrast = contrast_cells(_cell(ours), _cell(theirs))
    assert contrast is not None
    assert contrast.by_case == compare(units.values())
    assert contrast.interval == bootstrap_both(pairs)


def test_a_cell_pools_cases_over_folds_and_keeps_the_folds_apart(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.8, 0.9]), strategy="baseline", labelled=4, fold=0)
    files.run(as_scores(validation=[0.6, 0.5, 0.7]), strategy="baseline", labelled=4, fold=1)
    table = build_table(TableDefinition(name="t", sets=VALIDATION), collect(files.save()))
    cell = table.cells["validation", 4, "baseline"]
    assert (cell.expected, cell.present, len(cell.flat)) == (2, 2, 5)
    assert cell.mean == pytest.approx(0.7, abs=1e-12)
    assert cell.sd == pytest.approx(stdev([0.8, 0.9, 0.6, 0.5, 0.7]), abs=1e-12)
    assert cell.replicate_means == pytest.approx({(0,): 0.85, (1,): 0.6})
    assert cell.sd_of_means == pytest.approx(stdev([0.85, 0.6]))


def test_a_table_by_class_has_the_classes_of_its_own_grids(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.5]), grids="one", strategy="baseline", labelled=4, fold=0)
    files.run(as_scores(validation=[[0.5, 0.6]]), grids="two", strategy="baseline", labelled=8, fold=0)
    definition = TableDefinition(name="t", grid=("one",), rows="class", sets=VALIDATION)
    assert build_table(definition, collect(files.save())).rows == (1,)


def test_missing_runs_are_counted_and_never_averaged_over_silently(sweep_files, as_scores) -> None:
    files = sweep_files()
    for fold, scores in enumerate([as_scores(validation=[0.8]), None, as_scores(validation=[0.6])]):
        files.run(scores, strategy="baseline", labelled=4, fold=fold)
        files.run(None, strategy="transfer", labelled=4, fold=fold)
    table = build_table(TableDefinition(name="t", sets=VALIDATION), collect(files.save()))
    baseline, transfer = (table.cells["validation", 4, strategy] for strategy in ("baseline", "transfer"))
    assert (baseline.present, baseline.expected, baseline.missing) == (2, 3, ((1,),))
    assert (transfer.present, transfer.expected, transfer.mean, transfer.sd) == (0, 3, None, None)
    assert table.contrasts == {}


def test_a_set_that_a_result_lacks_is_missing_for_that_set_only(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.8]), strategy="baseline", labelled=4, fold=0)
    table = build_table(TableDefinition(name="t"), collect(files.save()))
    assert table.cells["validation", 4, "baseline"].present == 1
    assert table.cells["test", 4, "baseline"].present == 0


def test_a_run_in_two_grids_stands_in_both_tables_and_once_in_a_table_of_both(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.8]), grids=["seven", "eight"], strategy="baseline", labelled=32, fold=0)
    files.run(as_scores(validation=[0.7]), grids="seven", strategy="baseline", labelled=2, fold=0)
    files.run(as_scores(validation=[0.9]), grids="eight", strategy="transfer", labelled=32, fold=0, supplementary=True)
    collection = collect(files.save())
    tables = {
        grid: build_table(TableDefinition(name="t", grid=(grid,), sets=VALIDATION), collection)
        for grid in ("seven", "eight")
    }
    both = build_table(TableDefinition(name="t", sets=VALIDATION), collection)
    assert tables["seven"].rows == (2, 32)
    assert tables["seven"].columns == ("baseline",)
    assert tables["eight"].rows == (32,)
    assert tables["eight"].columns == ("baseline", "transfer")
    assert tables["eight"].contrasts["validation", 32, "transfer"].mean == pytest.approx(0.1)
    assert both.cells["validation", 32, "baseline"].expected == 1


def test_different_runs_in_one_place_are_kept_apart_and_noted(sweep_files, as_scores) -> None:
    files = sweep_files()
    for kernel, dsc in ((3, 0.6), (5, 0.8)):
        files.run(as_scores(validation=[dsc]), strategy="baseline", labelled=4, fold=0, kernel=kernel)
    table = build_table(TableDefinition(name="t", sets=VALIDATION), collect(files.save()))
    assert len(table.cells["validation", 4, "baseline"].values) == 2
    assert any("pooled" in note for note in table.notes)


def test_runs_that_stand_in_one_place_are_compared_with_those_of_the_same_seed(sweep_files, as_scores) -> None:
    files = sweep_files()
    for strategy, gain in (("baseline", 0.0), ("transfer", 0.1)):
        for fold in range(2):
            for seed in (0, 1, 2) if strategy == "baseline" else (2, 1):
                scores = as_scores(validation=[0.5 + 0.1 * seed + gain + 0.01 * fold * gain])
                files.run(scores, strategy=strategy, labelled=4, fold=fold, seed=seed)
    table = build_table(collect(files.save()).tables[0], collect(files.root))
    contrast = table.contrasts["validation", 4, "transfer"]
    assert (contrast.pairs, table.cells["validation", 4, "baseline"].present) == (4, 6)
    assert contrast.sd is not None and contrast.sd < 0.001, "no seed is compared with another one"
    assert any("several runs per fold are pooled" in note for note in table.notes)


def test_replicates_may_be_numbers_and_lists(sweep_files, as_scores) -> None:
    files = sweep_files()
    for maps in (16, [8, 16], 8):
        files.run(as_scores(validation=[0.5]), strategy="baseline", labelled=4, fold=0, maps=maps)
    definition = TableDefinition(name="t", over=("fold", "maps"), sets=VALIDATION)
    cell = build_table(definition, collect(files.save())).cells["validation", 4, "baseline"]
    assert cell.replicates == [(0, 8), (0, 16), (0, (8, 16))]


def test_several_classes_count_once_per_case_unless_the_table_asks(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[[0.8, 0.6], [0.9, 0.5]]), strategy="baseline", labelled=4, fold=0)
    collection = collect(files.save())
    pooled = build_table(TableDefinition(name="t", sets=VALIDATION), collection).cells["validation", 4, "baseline"]
    assert sorted(pooled.flat) == pytest.approx([0.7, 0.7])
    by_class = build_table(TableDefinition(name="t", rows="class", sets=VALIDATION), collection)
    assert by_class.rows == (1, 2)
    assert by_class.cells["validation", 1, "baseline"].mean == pytest.approx(0.85)
    assert by_class.cells["validation", 2, "baseline"].mean == pytest.approx(0.55)


def test_undefined_scores_are_left_out_and_counted(sweep_files, as_scores) -> None:
    files = sweep_files()
    files.run(as_scores(validation=[0.8, None]), strategy="baseline", labelled=4, fold=0)
    table = build_table(TableDefinition(name="t", sets=VALIDATION), collect(files.save()))
    cell = table.cells["validation", 4, "baseline"]
    assert (cell.mean, cell.undefined) == (0.8, 1)
    assert "1 undefined" in table.notes[0]


def test_a_contrast_pairs_by_fold_and_case() -> None:
    one = _cell({(0, "a"): 0.9, (0, "b"): 0.7, (1, "a"): 0.8, (1, "c"): 1.0})
    baseline = _cell({(0, "a"): 0.8, (0, "b"): 0.7, (1, "a"): 0.5, (2, "c"): 0.1})
    contrast = contrast_cells(one, baseline)
    assert contrast is not None
    assert contrast.pairs == 3
    assert contrast.mean == pytest.approx(fmean([0.1, 0.0, 0.3]))
    assert contrast.sd == pytest.approx(stdev([0.1, 0.0, 0.3]))
    assert contrast.by_replicate.units == 2
    assert contrast.by_replicate.mean == pytest.approx(fmean([0.05, 0.3]))
    assert contrast.by_replicate.sd == pytest.approx(stdev([0.05, 0.3]))


def test_cells_without_common_cases_have_no_contrast() -> None:
    assert contrast_cells(_cell({(0, "a"): 0.9}), _cell({(1, "a"): 0.8})) is None
    assert contrast_cells(_cell({(0, "a"): 0.9}), None) is None


def test_the_share_of_improved_cells_counts_cells_higher_than_the_baseline(sweep_files, as_scores) -> None:
    files = sweep_files()
    for labelled, baseline, transfer in ((2, 0.5, 0.6), (4, 0.7, 0.65), (8, 0.8, 0.8), ("all", 0.8, 0.9)):
        files.run(as_scores(validation=[baseline]), strategy="baseline", labelled=labelled, fold=0)
        files.run(as_scores(validation=[transfer]), strategy="transfer", labelled=labelled, fold=0)
    table = build_table(TableDefinition(name="t", sets=VALIDATION), collect(files.save()))
    assert table.improved == (2, 4)
    assert table.rows == (2, 4, 8, "all")


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        ({"rows": "labeled"}, "axis 'labeled'"),
        ({"grid": "nine"}, "grid 'nine'; there are 'main'"),
        ({"baseline": "unet"}, "baseline 'unet'"),
    ],
)
def test_a_definition_that_does_not_fit_the_sweep_is_refused(
    sweep_files, definition: dict[str, str], complaint: str
) -> None:
    files = sweep_files()
    files.run(None, strategy="baseline", labelled=4, fold=0)
    with pytest.raises(BadInput, match=complaint):
        build_table(TableDefinition.model_validate({"name": "t"} | definition), collect(files.save()))


def test_columns_are_not_compared_where_that_says_nothing(sweep_files, as_scores) -> None:
    files = sweep_files()
    for labelled in (4, 8):
        files.run(as_scores(validation=[0.8]), strategy="multitask", labelled=labelled, fold=0)
    axes: dict[str, Any] = {"rows": "strategy", "columns": "labelled", "sets": VALIDATION}
    collection = collect(files.save())
    assert build_table(TableDefinition(name="t", **axes), collection).baseline == 4
    table = build_table(TableDefinition(name="t", baseline="none", **axes), collection)
    assert (table.baseline, table.contrasts) == (None, {})


def test_the_bootstrap_interval_holds_the_mean_and_is_the_same_every_time() -> None:
    cell = _cell({(fold, f"{case}"): 0.8 + 0.01 * case + 0.02 * fold for case in range(10) for fold in range(2)})
    interval = bootstrap_interval(cell)
    assert interval is not None
    assert cell.mean is not None and interval[0] < cell.mean < interval[1]
    assert interval == bootstrap_interval(cell)
    # the standard error of the mean of ten case means 0.01 apart
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * 0.0287 / 10**0.5, rel=0.08)
    assert bootstrap_interval(_cell({(0, "a"): 0.5, (1, "a"): 0.6})) is None


def _metric(sweep_files, metric: str, baseline: list[float | None], transfer: list[float | None]) -> Table:
    files = sweep_files()
    for strategy, values in (("baseline", baseline), ("transfer", transfer)):
        lines = [{"case": f"c{n}", "class": 1, "dsc": 0.5, metric: value} for n, value in enumerate(values)]
        files.run({"validation": lines}, strategy=strategy, labelled=4, fold=0)
    return build_table(TableDefinition(name="t", sets=VALIDATION, metric=metric), collect(files.save()))


def test_less_distance_is_an_improvement_and_undefined_ones_are_counted_in_their_cells(sweep_files) -> None:
    table = _metric(sweep_files, "hd95", [10.0, 12.0, None], [8.0, 9.0, 100.0])
    contrast = table.contrasts["validation", 4, "transfer"]
    assert (contrast.pairs, contrast.mean, contrast.improved) == (2, -2.5, True)
    text = to_markdown(table)
    assert "| 4 | 11.00 ± 1.41 {1} | 39.00 ± 52.83 |" in text
    assert "{k}: 1 undefined values of the HD95 (a mask is empty) are left out" in text
    assert "Lower than Baseline in 1 of 1 cells (100%)" in text
    assert "less is better" in text


def test_an_organ_that_one_of_two_missed_does_not_make_it_the_better_one(sweep_files) -> None:
    files = sweep_files()
    for strategy, second in (("baseline", 40.0), ("transfer", None)):
        lines = [
            {"case": case, "class": class_, "dsc": 0.5, "hd95": value}
            for case in ("a", "b")
            for class_, value in ((1, 5.0), (2, second if case == "a" else 30.0))
        ]
        files.run({"validation": lines}, strategy=strategy, labelled=4, fold=0)
    table = build_table(TableDefinition(name="t", sets=VALIDATION, metric="hd95"), collect(files.save()))
    contrast = table.contrasts["validation", 4, "transfer"]
    assert (contrast.pairs, contrast.mean, contrast.improved, contrast.unpaired) == (2, 0.0, False, 1)
    assert "differences leave out 1 value of a class that only one of both has" in table.notes


def test_a_run_of_one_class_and_one_of_two_are_compared_by_the_class_that_both_have(sweep_files, as_scores) -> None:
    files = sweep_files()
    for classes, scores in (("one", [[0.8]]), ("two", [[0.7, 0.2]])):
        files.run(as_scores(validation=scores), classes=classes, labelled=4, fold=0)
    definition = TableDefinition(name="t", columns="classes", baseline="one", sets=VALIDATION)
    contrast = build_table(definition, collect(files.save())).contrasts["validation", 4, "two"]
    assert contrast.mean == pytest.approx(-0.1) and contrast.unpaired == 1


def test_each_class_that_has_cells_of_its_own_counts_among_the_improved(sweep_files, as_scores) -> None:
    files = sweep_files()
    for strategy, first, second in (("baseline", 0.5, 0.5), ("transfer", 0.6, 0.4)):
        files.run(as_scores(validation=[[first, second]]), strategy=strategy, labelled=4, fold=0)
    collection = collect(files.save())
    table = build_table(TableDefinition(name="t", rows="class", sets=VALIDATION), collection)
    assert table.improved == (1, 2)
    found = improved_in_all([table, table])
    assert found is not None and (found.better, found.compared) == (1, 2)


def test_volumes_are_compared_by_the_size_of_their_difference(sweep_files) -> None:
    table = _metric(sweep_files, "volume_difference", [-10.0, 10.0], [4.0, 6.0])
    assert table.cells["validation", 4, "baseline"].mean == 0.0
    contrast = table.contrasts["validation", 4, "transfer"]
    assert (contrast.mean, contrast.improved) == (-5.0, True)
    assert "Nearer to zero than Baseline in 1 of 1" in to_markdown(table)


def test_no_share_is_made_of_a_metric_of_which_neither_way_is_better(sweep_files) -> None:
    compared = [_metric(sweep_files, metric, [10.0, 12.0], [8.0, 9.0]) for metric in ("hd95", "volume_ml")]
    assert [improved_in_all([table, table]) is None for table in compared] == [False, True]


def test_wilcoxons_p_is_of_cases_and_of_folds_and_corrected_over_the_table(sweep_files, as_scores) -> None:
    files = sweep_files()
    for labelled in (4, 8):
        for fold in range(5):
            for strategy, gain in (("baseline", 0.0), ("transfer", 0.01 * labelled)):
                scores = as_scores(validation=[0.5 + gain + (0.001 * n + 0.002 * fold) * (gain > 0) for n in range(8)])
                files.run(scores, strategy=strategy, labelled=labelled, fold=fold)
    table = build_table(TableDefinition(name="t", sets=VALIDATION), collect(files.save()))
    for contrast in table.contrasts.values():
        assert (contrast.by_case.units, contrast.by_replicate.units, contrast.pairs) == (8, 5, 40)
        assert (contrast.by_case.p, contrast.p) == (2 / 2**8, 4 / 2**8)
        assert (contrast.by_replicate.p, contrast.replicate_p) == (2 / 2**5, 4 / 2**5)
        interval = contrast.by_case.interval
        assert interval is not None and interval[0] < contrast.mean < interval[1]


def test_every_metric_is_known_to_results_help_and_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    section = text[text.index("## What is measured") : text.index("**Empty masks.**")]
    options = CliRunner().invoke(app, ["collect", "--help"], terminal_width=200).output
    for known in (Score.model_fields, re.findall(r"`(\w+)`", section), re.findall(r"\w+", options)):
        assert METRICS.keys() <= set(known)
