"""Tables of Dice scores: cells that know what is missing, and paired contrasts with the baseline. Pure.

A replicate is one run of a cell: a fold, or one value of each axis in the definition's `over`. Standard deviations are
sample standard deviations (n - 1). Means and SDs are over cases pooled over replicates (paper, tables 1 to 8); the SD
over the replicates' means stands beside them in every export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from hpcseg.errors import BadInput
from hpcseg.results.axes import CLASS, as_toml, axis_value, label, places, sort_axis
from hpcseg.results.collect import Axis, Collection, Place, Run, TableDefinition

Replicate = tuple[Axis, ...]
Key = tuple[str, Axis, Axis]  # set, row, column


@dataclass(frozen=True)
class Cell:
    """The DSC of every (replicate, case) of one row, column and set."""

    values: Mapping[tuple[Replicate, str], float]
    expected: int  # runs that the sweep has here
    present: int  # of these, runs with results
    missing: tuple[Replicate, ...] = ()
    undefined: int = 0  # cases without a defined DSC, left out of `values`

    @property
    def mean(self) -> float | None:
        """Mean over all cases of all replicates."""
        return fmean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over all cases of all replicates."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def replicate_means(self) -> dict[Replicate, float]:
        """Mean over the cases of each replicate."""
        groups: dict[Replicate, list[float]] = {}
        for (replicate, _), value in self.values.items():
            groups.setdefault(replicate, []).append(value)
        return {replicate: fmean(group) for replicate, group in groups.items()}

    @property
    def sd_of_means(self) -> float | None:
        """Sample standard deviation over the replicates' means."""
        means = self.replicate_means
        return stdev(means.values()) if len(means) > 1 else None


@dataclass(frozen=True)
class Contrast:
    """A cell minus the baseline's cell, over the (replicate, case) pairs that both have."""

    pairs: int
    mean: float
    sd: float | None
    replicates: int
    replicate_mean: float  # mean over replicates of the mean difference within each
    replicate_sd: float | None
    complete: bool  # both cells have all their runs


@dataclass(frozen=True)
class Table:
    """Cells by (set, row, column), in the order of `sets`, `rows` and `columns`."""

    definition: TableDefinition
    sets: tuple[str, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    cells: Mapping[Key, Cell]
    baseline: Axis | None
    contrasts: Mapping[Key, Contrast]
    notes: tuple[str, ...]

    @property
    def improved(self) -> tuple[int, int]:
        """Cells with a higher paired mean than the baseline, and cells that could be compared."""
        return sum(contrast.mean > 1e-9 for contrast in self.contrasts.values()), len(self.contrasts)  # not by rounding

    def row_label(self, value: Axis) -> str:
        """A row, or the key of all rows, as it is printed."""
        return self.definition.row_labels.get(as_toml(value), label(value))

    def column_label(self, value: Axis) -> str:
        """A column as it is printed."""
        return self.definition.column_labels.get(as_toml(value), label(value))


@dataclass
class _Filling:
    """A cell under construction."""

    runs: dict[str, Replicate] = field(default_factory=dict)
    found: dict[str, Replicate] = field(default_factory=dict)
    values: dict[tuple[Replicate, str], float] = field(default_factory=dict)
    undefined: int = 0


def build_table(definition: TableDefinition, collection: Collection) -> Table:
    """Arrange the results of a sweep as `definition` says.

    Raises:
        BadInput: the definition names an axis or a grid that the sweep does not have.
    """
    fillings: dict[Key, _Filling] = {}
    clashes: set[str] = set()
    for run, place in places(definition, collection):
        for row, column, class_ in _positions(definition, run, place, _classes(collection)):
            for name in definition.sets:
                filling = fillings.setdefault((name, row, column), _Filling())
                if run.id in filling.runs:
                    continue  # the same run in two grids
                replicate = tuple(axis_value(definition, run, place, key) for key in definition.over)
                if replicate in filling.runs.values():
                    clashes.add(f"row {row}, column {column}")
                    replicate = (*replicate, run.id)
                _fill(filling, run, replicate, name, class_)
    cells = {key: _finish(filling) for key, filling in fillings.items()}
    rows = sort_axis(row for _, row, _ in cells)
    columns = sort_axis(column for _, _, column in cells)
    baseline = _baseline(definition, columns)
    notes = [f"several runs per {' and '.join(definition.over)} are pooled in {clash}" for clash in sorted(clashes)]
    if undefined := sum(cell.undefined for cell in cells.values()):
        notes.append(f"{undefined} undefined scores (reference and prediction empty) are left out")
    contrasts = {
        (name, row, column): contrast
        for (name, row, column), cell in cells.items()
        if column != baseline and baseline is not None
        if (contrast := contrast_cells(cell, cells.get((name, row, baseline)))) is not None
    }
    return Table(definition, definition.sets, rows, columns, cells, baseline, contrasts, tuple(notes))


def select_runs(
    definition: TableDefinition, collection: Collection
) -> dict[tuple[Axis, Axis], list[tuple[Replicate, Run]]]:
    """The runs of each (row, column), with their replicates, in the order of the sweep.

    Raises:
        BadInput: as `build_table`.
    """
    runs: dict[tuple[Axis, Axis], dict[str, tuple[Replicate, Run]]] = {}
    for run, place in places(definition, collection):
        row, column = (axis_value(definition, run, place, key) for key in (definition.rows, definition.columns))
        replicate = tuple(axis_value(definition, run, place, key) for key in definition.over)
        runs.setdefault((row, column), {})[run.id] = (replicate, run)
    return {place: list(found.values()) for place, found in runs.items()}


def contrast_cells(cell: Cell, baseline: Cell | None) -> Contrast | None:
    """Paired difference of two cells; None where they share no (replicate, case)."""
    shared = [key for key in cell.values if baseline and key in baseline.values]
    if baseline is None or not shared:
        return None
    differences = {key: cell.values[key] - baseline.values[key] for key in shared}
    paired = Cell(differences, 0, 0)
    means = list(paired.replicate_means.values())
    return Contrast(
        pairs=len(shared),
        mean=fmean(differences.values()),
        sd=paired.sd,
        replicates=len(means),
        replicate_mean=fmean(means),
        replicate_sd=paired.sd_of_means,
        complete=all(one.present == one.expected for one in (cell, baseline)),
    )


def bootstrap_interval(cell: Cell, level: float = 0.95, draws: int = 2000) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the cell's mean. Cases are drawn, each with its scores of all replicates.

    Deterministic. None with fewer than two cases.
    """
    scores: dict[str, list[float]] = {}
    for (_, case), value in cell.values.items():
        scores.setdefault(case, []).append(value)
    if len(scores) < 2:
        return None
    sums = np.array([sum(scores[case]) for case in sorted(scores)])
    counts = np.array([len(scores[case]) for case in sorted(scores)])
    drawn = np.random.Generator(np.random.Philox(0)).integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _classes(collection: Collection) -> tuple[int, ...]:
    scores = (score for run in collection.runs if run.result for found in run.result.sets.values() for score in found)
    return tuple(sorted({score.class_ for score in scores})) or (1,)


def _positions(
    definition: TableDefinition, run: Run, place: Place, classes: tuple[int, ...]
) -> list[tuple[Axis, Axis, int | None]]:
    """Row, column and class of every cell that the run contributes to; class None: the mean over classes."""
    by_class = CLASS in (definition.rows, definition.columns)
    positions: list[tuple[Axis, Axis, int | None]] = []
    for class_ in classes if by_class else (None,):
        row, column = (
            class_ if key == CLASS and class_ is not None else axis_value(definition, run, place, key)
            for key in (definition.rows, definition.columns)
        )
        positions.append((row, column, class_))
    return positions


def _fill(filling: _Filling, run: Run, replicate: Replicate, name: str, class_: int | None) -> None:
    filling.runs[run.id] = replicate
    scores = run.result.sets.get(name) if run.result else None
    if not scores:
        return
    filling.found[run.id] = replicate
    cases: dict[str, list[float]] = {}
    for score in scores:
        if class_ in (None, score.class_):
            defined = cases.setdefault(score.case, [])
            if score.dsc is not None:
                defined.append(score.dsc)
    for case, values in cases.items():
        if values:
            filling.values[replicate, case] = fmean(values)
        else:
            filling.undefined += 1


def _finish(filling: _Filling) -> Cell:
    missing = tuple(replicate for run, replicate in filling.runs.items() if run not in filling.found)
    return Cell(filling.values, len(filling.runs), len(filling.found), missing, filling.undefined)


def _baseline(definition: TableDefinition, columns: tuple[Axis, ...]) -> Axis | None:
    if definition.baseline == "none":
        return None
    if definition.baseline is not None:
        if definition.baseline not in columns:
            raise BadInput(f"{definition.name!r}: baseline {definition.baseline!r} is none of its columns {columns}")
        chosen: Axis = definition.baseline
        return chosen
    if "baseline" in columns:
        return "baseline"
    return columns[0] if len(columns) > 1 else None
