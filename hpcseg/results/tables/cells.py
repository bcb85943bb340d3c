"""One cell of a table, its paired contrast with the baseline's, and what was published in its place. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TypeVar

from hpcseg.inference.metrics import DSC, Metric
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
Replicate = tuple[Axis, ...]
Key = tuple[str, Axis, Axis]  # set, row, column
Values = Mapping[Replicate, Mapping[str, float]]  # by replicate, those of each case


@dataclass(frozen=True)
class Cell:
    """The values of every replicate's cases of one row, column and set."""

    values: Values
    expected: int  # runs that the sweep has here
    present: int  # of these, runs with results
    missing: tuple[Replicate, ...] = ()
    undefined: int = 0  # scores without a defined value, left out of `values`
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
        return sorted(
            self.runs.values(),
            key=lambda one: [(isinstance(v, str), v if not isinstance(v, str) else 0, str(v)) for v in one],
        )

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


def contrast_cells(cell: Cell, baseline: Cell | None, metric: Metric = DSC) -> Contrast | None:
    """Paired difference of two cells; None where they share no (replicate, case)."""
    if baseline is None:
        return None
    size = metric.comparable
    differences = {
        replicate: {case: size(value) - size(theirs[case]) for case, value in cases.items() if case in theirs}
        for replicate, cases in cell.values.items()
        if (theirs := baseline.values.get(replicate))
    }
    pairs = [(replicate, *pair) for replicate, cases in differences.items() for pair in cases.items()]
    if not pairs:
        return None
    values = [value for _, _, value in pairs]
    return Contrast(
        pairs=len(values),
        mean=fmean(values),
        sd=sample_sd(values),
        by_case=compare(_grouped((case, value) for _, case, value in pairs).values()),
        by_replicate=compare([*cases.values()] for cases in differences.values() if cases),
        improved=metric.improves(fmean(values)),
        complete=all(one.present == one.expected for one in (cell, baseline)),
        interval=bootstrap_both(_grouped(((replicate[:1], case), value) for replicate, case, value in pairs)),
    )


def bootstrap_interval(cell: Cell, level: float = LEVEL, draws: int = DRAWS) -> Interval | None:
    """Percentile bootstrap interval of the cell's mean. Cases are drawn, each with its values of all replicates.

    Deterministic. None with fewer than two cases.
    """
    cases = _grouped(pair for found in cell.values.values() for pair in found.items())
    groups = [cases[case] for case in sorted(cases)]
    return bootstrap(list(map(sum, groups)), list(map(len, groups)), level, draws)


def _grouped(pairs: Iterable[tuple[KeyT, float]]) -> dict[KeyT, list[float]]:
    groups: dict[KeyT, list[float]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
