"""One cell of a table, its paired contrast with the baseline's, and what was published in its place. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import sub
from statistics import fmean
from typing import TypeVar

from hpcseg.inference.metrics import DSC, Metric
from hpcseg.results.scores import Scores
from hpcseg.results.tables.statistics import (
    DRAWS,
    LEVEL,
    Comparison,
    Interval,
    bootstrap,
    bootstrap_both,
    compare,
    sample_sd,
)
from hpcseg.study.tables import Axis

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
Replicate = tuple[Axis, ...]
Key = tuple[str, Axis, Axis]  # set, row, column
Values = Mapping[Replicate, Mapping[str, float]]  # by replicate, those of each case
OfClasses = Mapping[Replicate, Scores]  # what values are means of, over classes; none of them in a table of classes


@dataclass(frozen=True)
class Cell:
    """The values of every replicate's cases of one row, column and set."""

    values: Values
    expected: int  # runs that the sweep has here
    present: int  # of these, runs with results
    missing: tuple[Replicate, ...] = ()
    undefined: int = 0  # scores without a defined value, left out of `values`
    gaps: frozenset[Replicate] = frozenset()  # whose cases' values are means over some of the classes only
    runs: Mapping[str, Replicate] = field(default_factory=dict)  # all of them, by id
    stale: tuple[str, ...] = ()  # of these, whose result may not be of what the sweep asks for
    odd: tuple[str, ...] = ()  # of these, that were not made as most results of the table
    minutes: float | None = None  # mean of those runs that say it, each with all that it needed but packing

    @cached_property
    def flat(self) -> list[float]:
        """Values of all replicates' cases."""
        return [value for cases in self.values.values() for value in cases.values()]

    @cached_property
    def mean(self) -> float | None:
        """Mean over all cases of all replicates."""
        return fmean(self.flat) if self.flat else None

    @cached_property
    def sd(self) -> float | None:
        """Sample standard deviation over all cases of all replicates."""
        return sample_sd(self.flat)

    @cached_property
    def replicates(self) -> list[Replicate]:
        """All replicates, missing ones too, in their order."""
        return sorted(self.runs.values(), key=lambda one: [*map(_order, one)])

    @cached_property
    def replicate_means(self) -> dict[Replicate, float]:
        """Mean over the cases of each replicate."""
        return {replicate: fmean(cases.values()) for replicate, cases in self.values.items()}

    @cached_property
    def replicate_sds(self) -> dict[Replicate, float | None]:
        """Sample standard deviation over the cases of each replicate."""
        return {replicate: sample_sd([*cases.values()]) for replicate, cases in self.values.items()}

    @cached_property
    def sd_of_means(self) -> float | None:
        """Sample standard deviation over the replicates' means."""
        return sample_sd(list(self.replicate_means.values()))

    @cached_property
    def mean_of_sds(self) -> float | None:
        """Mean over replicates of the sample standard deviation over the cases of each."""
        sds = [sd for sd in self.replicate_sds.values() if sd is not None]
        return fmean(sds) if sds else None


@dataclass(frozen=True)
class Contrast:
    """A cell minus the baseline's cell, over the (replicate, case) pairs that both have.

    Attributes:
        mean, sd: over all pairs; of the sizes where the metric is best at zero.
        by_case: cases are the units, each with its pairs of all replicates.
        by_replicate: replicates are the units, each with its pairs of all cases.
        interval: 95 % bootstrap interval of the mean, cases and values of the first axis of replicates (folds) drawn;
            None with fewer than two of either.
        improved: the mean is better than the baseline's.
        complete: both cells have all their runs.
        unpaired: values of a class, in cases that both cells have, that one of them has; no difference knows of them.
        p, replicate_p: Wilcoxon's, of cases and of replicates, with Holm's correction over the contrasts of the table;
            None before it is known.
    """

    pairs: int
    mean: float
    sd: float | None
    by_case: Comparison
    by_replicate: Comparison
    improved: bool
    complete: bool
    unpaired: int = 0
    interval: Interval | None = None
    p: float | None = None
    replicate_p: float | None = None


@dataclass(frozen=True)
class Beside:
    """Another collection's means and standard deviations in the places of a table's cells.

    Attributes:
        label: whose they are, e.g. "the paper".
        values: mean and SD (None: unknown) of the cells that both have.
        improved: its cells that are better than its baseline's, and cells that can be compared.
        notes: what to know when comparing.
    """

    label: str
    table: str
    values: Mapping[Key, tuple[float, float | None]]
    improved: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()


def contrast_cells(
    cell: Cell, baseline: Cell | None, metric: Metric = DSC, scores: tuple[OfClasses, OfClasses] = ({}, {})
) -> Contrast | None:
    """Paired difference of two cells, with the `scores` of both; None where they share no (replicate, case).

    A case's difference is the mean over the classes that both have: an organ that one of them missed has no distance,
    and its mean over the others is not to be compared with one over all.
    """
    if baseline is None:
        return None
    found = {
        replicate: _differences((cell, baseline), replicate, metric, [of.get(replicate) for of in scores])
        for replicate in cell.values
        if replicate in baseline.values
    }
    differences = {replicate: cases for replicate, (cases, _) in found.items() if cases}
    if not differences:
        return None
    values = [value for cases in differences.values() for value in cases.values()]
    folds = _grouped((replicate[:1], cases) for replicate, cases in differences.items())
    return Contrast(
        pairs=len(values),
        mean=fmean(values),
        sd=sample_sd(values),
        by_case=compare(_by_case(differences.values()).values()),
        by_replicate=compare([*cases.values()] for cases in differences.values()),
        improved=metric.improves(fmean(values)),
        complete=all(one.present == one.expected for one in (cell, baseline)),
        unpaired=sum(unpaired for _, unpaired in found.values()),
        interval=bootstrap_both(
            {(fold, case): found for fold, rows in folds.items() for case, found in _by_case(rows).items()}
        ),
    )


def _differences(
    cells: tuple[Cell, Cell], replicate: Replicate, metric: Metric, scores: Sequence[Scores | None]
) -> tuple[dict[str, float], int]:
    """Of each case that both have; and how many values of a class one of them has, and the other has not."""
    ours, theirs = (_comparable(metric, one.values[replicate]) for one in cells)
    first, second = scores
    whole = not any(replicate in one.gaps for one in cells)
    if first is None or second is None or (whole and first.classes == second.classes):
        if [*ours] == [*theirs]:
            return dict(zip(ours, map(sub, ours.values(), theirs.values()), strict=True)), 0
        return {case: value - theirs[case] for case, value in ours.items() if case in theirs}, 0
    a, b = (
        {key: value for key, value in one.by_class(metric).items() if key[0] in ours and key[0] in theirs}
        for one in (first, second)
    )
    means_a, means_b = (
        _comparable(
            metric,
            {case: fmean(found) for case, found in _grouped((key[0], one[key]) for key in a if key in b).items()},
        )
        for one in (a, b)
    )
    return {case: value - means_b[case] for case, value in means_a.items()}, len(a.keys() ^ b.keys())


def _comparable(metric: Metric, values: Mapping[str, float]) -> Mapping[str, float]:
    """Values of cases as contrasts take them."""
    return {case: metric.comparable(value) for case, value in values.items()} if metric.better == "zero" else values


def _order(value: Axis) -> tuple[int, float, str]:
    """Numbers by size, then words, then lists."""
    if isinstance(value, int | float):
        return 0, value, ""
    return 1 + isinstance(value, tuple), 0, str(value)


def bootstrap_interval(cell: Cell, level: float = LEVEL, draws: int = DRAWS) -> Interval | None:
    """Percentile bootstrap interval of the cell's mean. Cases are drawn, each with its values of all replicates.

    Deterministic. None with fewer than two cases.
    """
    cases = _by_case(cell.values.values())
    groups = [cases[case] for case in sorted(cases)]
    return bootstrap(list(map(sum, groups)), list(map(len, groups)), level, draws)


def _by_case(rows: Collection[Mapping[str, float]]) -> Mapping[str, Sequence[float]]:
    """Values of each case, in the order of the rows; column by column where no two rows share some of their cases."""
    alike = _grouped((tuple(row), row) for row in rows)
    if sum(map(len, alike)) > len({case for cases in alike for case in cases}):
        return _grouped(pair for row in rows for pair in row.items())
    columns = ((cases, zip(*(row.values() for row in found), strict=True)) for cases, found in alike.items())
    return {case: column for cases, found in columns for case, column in zip(cases, found, strict=True)}


def _grouped(pairs: Iterable[tuple[KeyT, ValueT]]) -> dict[KeyT, list[ValueT]]:
    groups: dict[KeyT, list[ValueT]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
