"""The list of cells: what stands beside each mean."""

from __future__ import annotations

import json

from hpcseg.results.collect import collect
from hpcseg.results.tables.listing import to_list
from hpcseg.results.tables.tables import build_table
from hpcseg.study.tables import TableDefinition


def test_a_cell_stands_with_its_n_both_intervals_and_its_minutes(sweep_files, as_scores) -> None:
    files = sweep_files()
    needs: dict[str, list[str]] = {}
    for fold in range(2):
        plain = files.run(as_scores(test=[0.5, 0.75]), strategy="baseline", labelled=2, fold=fold)
        run = files.run(as_scores(test=[0.5 + 0.25 * fold, 0.75]), strategy="selftrain", labelled=2, fold=fold)
        needs |= {run: [f"labels{fold}", "packed"], f"labels{fold}": [plain, "packed"]}
        for name, seconds in ((plain, 60.0), (run, 120.0)):
            path = files.root / "train" / name / "result.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"training": {"seconds": seconds}}))
        done = files.root / "label" / f"labels{fold}" / "done.json"
        done.parent.mkdir(parents=True)
        done.write_text(json.dumps({"seconds": 30.0}))
    files.record |= {"needs": needs, "stages": {"pack": ["packed"], "label": ["labels0", "labels1"]}}
    collection = collect(files.save())
    assert [run.seconds for run in collection.runs] == [60, 210, 60, 210]  # teacher, labels and student
    table = build_table(TableDefinition(name="t", sets=("test",)), collection)
    lines = to_list(table).splitlines()
    assert lines[2] == (
        "| n | Strategy | DSC | scores | − Baseline [cases drawn] | [cases and folds drawn] | p | minutes |"
    )
    assert lines[4] == "| 2 | Baseline | 0.625 ± 0.144 | 4 (2 × 2) |  |  |  | 1.0 |"
    assert lines[5] == (
        "| 2 | Self-training | 0.688 ± 0.125 | 4 (2 × 2) | +0.062 [0.000, +0.125] | [0.000, +0.250] | p = 1.000 | 3.5 |"
    )
    assert "minutes: of one run" in lines[-1]


def test_what_no_cell_has_is_left_out_and_time_that_one_ancestor_does_not_tell_is_not_guessed(
    sweep_files, as_scores
) -> None:
    files = sweep_files()
    run = files.run(as_scores(test=[0.5, 0.7]), strategy="transfer", labelled=2, fold=0)
    files.write(run, {"id": run, "sets": as_scores(test=[0.5, 0.7]), "training": {"seconds": 60}})
    files.record |= {"needs": {run: ["level0"]}, "stages": {"pretrain": ["level0"]}}
    table = build_table(TableDefinition(name="t"), collect(files.save()))
    assert table.cells["test", 2, "transfer"].minutes is None
    assert to_list(table).splitlines()[2] == "| Set | n | Strategy | DSC | scores |"
