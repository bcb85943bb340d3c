"""Folds and nested subsets: what must hold for any grouping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.errors import BadInput
from hpcseg.volumes.folds import split_cases

GROUPINGS = st.lists(st.integers(1, 4), min_size=5, max_size=40).map(
    lambda sizes: {f"case_{g}_{i}": f"group_{g}" for g, size in enumerate(sizes) for i in range(size)}
)


def singles(count: int) -> dict[str, str]:
    return {f"case_{index:03d}": f"case_{index:03d}" for index in range(count)}


def test_131_cases_give_the_papers_folds() -> None:
    splits = [split_cases(singles(131), folds=5, fold=fold, labelled="all", seed=0) for fold in range(5)]
    assert [len(split.validation) for split in splits] == [26, 26, 26, 26, 27]


@given(groups=GROUPINGS, seed=st.integers(-5, 5), folds=st.integers(2, 5))
def test_folds_partition_the_cases_and_keep_groups_together(groups: dict[str, str], seed: int, folds: int) -> None:
    splits = [split_cases(groups, folds=folds, fold=fold, labelled="all", seed=seed) for fold in range(folds)]
    assert sorted(name for split in splits for name in split.validation) == sorted(groups)
    for split in splits:
        assert split.unlabelled == ()
        assert sorted(split.labelled + split.validation) == sorted(groups)
        assert not {groups[name] for name in split.labelled} & {groups[name] for name in split.validation}
    sizes = [len(split.validation) for split in splits]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= max(sum(g == group for g in groups.values()) for group in groups.values())


@given(groups=GROUPINGS, seed=st.integers(0, 5), data=st.data())
def test_subsets_are_nested_and_take_different_groups_first(
    groups: dict[str, str], seed: int, data: st.DataObject
) -> None:
    every = split_cases(groups, folds=5, fold=2, labelled="all", seed=seed)
    count = data.draw(st.integers(1, len(every.labelled)))
    split = split_cases(groups, folds=5, fold=2, labelled=count, seed=seed)
    assert split.validation == every.validation
    assert split.labelled == every.labelled[:count]
    assert split.labelled + split.unlabelled == every.labelled
    available = len({groups[name] for name in every.labelled})
    assert len({groups[name] for name in split.labelled}) == min(count, available)


@given(seed=st.integers(0, 20), order=st.permutations(list(singles(12))))
def test_the_order_on_disk_does_not_matter(seed: int, order: list[str]) -> None:
    shuffled = {name: name for name in order}
    assert split_cases(shuffled, folds=3, fold=1, labelled=4, seed=seed) == split_cases(
        singles(12), folds=3, fold=1, labelled=4, seed=seed
    )


def test_seeds_and_folds_differ() -> None:
    firsts = {split_cases(singles(60), folds=5, fold=0, labelled=5, seed=seed).validation for seed in range(5)}
    assert len(firsts) == 5


def test_splits_are_the_same_tomorrow() -> None:
    split = split_cases(singles(10), folds=3, fold=0, labelled=3, seed=0)
    assert split.validation == ("case_000", "case_003", "case_006")
    assert split.labelled == ("case_002", "case_005", "case_009")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled": 9}, "fold 0 has 1 to 8 training cases"),
        ({"labelled": 0}, "fold 0 has 1 to 8"),
        ({"folds": 11}, "needs as many groups"),
        ({"fold": 5}, "fold = 5 does not exist"),
    ],
)
def test_impossible_splits_are_refused(change: dict[str, int], message: str) -> None:
    arguments = {"folds": 5, "fold": 0, "labelled": 2, "seed": 0} | change
    with pytest.raises(BadInput, match=message):
        split_cases(singles(10), **arguments)
