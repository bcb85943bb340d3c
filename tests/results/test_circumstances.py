"""What the page says of the data behind a sweep."""

from __future__ import annotations

from hpcseg.results.collect import collect
from hpcseg.results.page.circumstances import read_data


def test_splits_of_several_seeds_are_told_apart(sweep_files, as_scores) -> None:
    files = sweep_files()
    for seed, cases in enumerate((["a", "b"], ["c", "d"])):
        run = files.run(None, strategy="baseline", labelled=2, fold=0, **{"data.split_seed": seed})
        files.write(run, {"id": run, "sets": as_scores(validation=[0.5]), "labelled_cases": cases})
    splits = read_data(collect(files.save())).splits
    assert [(split.fold, split.cases) for split in splits] == [
        ("0 of data.split_seed 0", ("a", "b")),
        ("0 of data.split_seed 1", ("c", "d")),
    ]
