"""Which cases are labelled, unlabelled and held out: folds and nested subsets. Pure.

A group (one patient) never straddles training and validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpcseg.errors import BadInput

_FOLDS, _SUBSETS = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Split:
    """Names of cases; training = labelled + unlabelled.

    Attributes:
        labelled: those whose label may be used, in the order in which smaller subsets take them.
        unlabelled: the rest of the training cases.
        validation: the held-out fold, sorted.
        test: those that are set aside, sorted; they choose nothing.
    """

    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def split_cases(
    groups: Mapping[str, str], *, folds: int, fold: int, labelled: int | Literal["all"], seed: int
) -> Split:
    """Split cases for one fold and one number of labelled cases (paper 2.3).

    The folds depend on `groups`, `folds` and `seed` only. A smaller labelled subset is the beginning of a larger one;
    small subsets take cases of different groups first.

    >>> patients = {f"liver_{number}": f"patient_{number}" for number in range(131)}
    >>> splits = [split_cases(patients, folds=5, fold=fold, labelled=2, seed=0) for fold in range(5)]
    >>> [len(split.validation) for split in splits]
    [26, 26, 26, 26, 27]
    >>> splits[0].labelled, split_cases(patients, folds=5, fold=0, labelled=4, seed=0).labelled
    (('liver_46', 'liver_64'), ('liver_46', 'liver_64', 'liver_6', 'liver_25'))

    Args:
        groups: case -> its group.
        folds: number of folds.
        fold: the one held out, 0 ... folds − 1.
        labelled: how many training cases are labelled.
        seed: of the shuffles.

    Raises:
        BadInput: fewer groups than folds, no such fold, or more labelled cases wanted than there are.
    """
    if len(set(groups.values())) < folds:
        raise BadInput(
            f"data.folds = {folds} needs as many groups, but there are {len(set(groups.values()))}; lower it"
        )
    if not 0 <= fold < folds:
        raise BadInput(f"fold = {fold} does not exist; data.folds = {folds} gives 0 to {folds - 1}")
    parts = _folds(groups, folds, seed)
    training = [name for index, part in enumerate(parts) if index != fold for name in part]
    order = subset_order({name: groups[name] for name in training}, seed=seed, fold=fold)
    return Split(*first_cases(order, labelled, f"fold {fold}"), tuple(sorted(parts[fold])))


def first_cases(
    order: Sequence[str], labelled: int | Literal["all"], where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first cases of a ranking, and the others.

    >>> first_cases(["b", "a", "c"], 2, "fold 0")
    (('b', 'a'), ('c',))

    Raises:
        BadInput: there are not so many; `where` stands in the message.
    """
    count = len(order) if labelled == "all" else labelled
    if not 0 < count <= len(order):
        raise BadInput(f"labelled = {labelled}: {where} has 1 to {len(order)} training cases; change it or use 'all'")
    return tuple(order[:count]), tuple(order[count:])


def _folds(groups: Mapping[str, str], folds: int, seed: int) -> list[list[str]]:
    """Deal shuffled groups, larger ones first, each into the fold with most room left."""
    members = _members(groups)
    names = sorted(members)
    generator = _generator([seed, _FOLDS])
    shuffled = [names[index] for index in generator.permutation(len(names))]
    shuffled.sort(key=lambda group: -len(members[group]))
    share, rest = divmod(len(groups), folds)
    room = [share + (index >= folds - rest) for index in range(folds)]
    parts: list[list[str]] = [[] for _ in range(folds)]
    for group in shuffled:
        roomiest = max(range(folds), key=lambda index: room[index])
        parts[roomiest] += members[group]
        room[roomiest] -= len(members[group])
    return parts


def subset_order(groups: Mapping[str, str], *, seed: int, fold: int) -> list[str]:
    """Order of labelling, drawn: a case of each group first, then the groups' second cases, and so on."""
    members = _members(groups)
    names = sorted(members)
    generator = _generator([seed, _SUBSETS, fold])
    shuffled = [names[index] for index in generator.permutation(len(names))]
    dealt = [[members[group][index] for index in generator.permutation(len(members[group]))] for group in shuffled]
    return [cases[turn] for turn in range(max(map(len, dealt), default=0)) for cases in dealt if turn < len(cases)]


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Group -> its cases, sorted."""
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    return members


def _generator(key: list[int]) -> np.random.Generator:
    return np.random.default_rng([part % 2**32 for part in key])
