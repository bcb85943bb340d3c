"""Tables of what was measured: cells that know what is missing, and paired contrasts with the baseline. Pure.

A replicate is one run of a cell: a fold, or one value of each axis in the definition's `over`. Standard deviations are
sample standard deviations (n - 1). Means and SDs are over cases pooled over replicates; the SD over the replicates'
means and the mean of the replicates' SDs stand beside them in every export. (The paper calls its table 7 "averaged over
the cross-validation folds" and does not say which of these its SDs are; see docs/fidelity.md.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpcseg.errors import BadInput
from hpcseg.inference.metrics import METRICS, Metric
from hpcseg.registry import REFERENCE
from hpcseg.results.freshness import Mixture, mixture
from hpcseg.results.model import Collection, Place, Run
from hpcseg.results.tables.axes import as_toml, axis_value, label, places, sort_axis
from hpcseg.results.tables.cells import (
    Beside,
    Cell,
    Contrast,
    Key,
    Replicate,
    bootstrap_interval,
    contrast_cells,
)
from hpcseg.results.tables.statistics import holm
from hpcseg.study.tables import CLASS, Axis, TableDefinition

__all__ = ["Beside", "Cell", "Contrast", "Improved", "Key", "Replicate", "Table", "bootstrap_interval", "build_table"]
__all__ += ["contrast_cells", "improved_in_all", "select_runs"]


@dataclass(frozen=True)
class Table:
    """Cells by (set, row, column), in the order of `sets`, `rows` and `columns`."""

    definition: TableDefinition
    metric: Metric
    sets: tuple[str, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    cells: Mapping[Key, Cell]
    baseline: Axis | None
    contrasts: Mapping[Key, Contrast]
    notes: tuple[str, ...]
    mixed: Mixture = field(default_factory=Mixture)
    beside: Beside | None = None

    @property
    def improved(self) -> tuple[int, int]:
        """Cells with a better paired mean than the baseline, and cells that could be compared.

        Where all runs are there, that is whether the cell's mean is better, as the paper counts (its 75 %).
        """
        return sum(contrast.improved for contrast in self.contrasts.values()), len(self.contrasts)

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
    found: dict[str, Run] = field(default_factory=dict)
    values: dict[tuple[Replicate, str], float] = field(default_factory=dict)
    undefined: int = 0


def build_table(definition: TableDefinition, collection: Collection) -> Table:
    """Arrange the results of a sweep as `definition` says.

    Raises:
        BadInput: the definition names an axis, a grid or a baseline that there is not.
    """
    metric = METRICS[definition.metric]
    fillings: dict[Key, _Filling] = {}
    clashes: set[str] = set()
    unmeasured: set[str] = set()
    by_class = _classes(collection) if CLASS in (definition.rows, definition.columns) else (None,)
    for run, place in places(definition, collection):
        for row, column, class_ in _positions(definition, run, place, by_class):
            for name in definition.sets:
                filling = fillings.setdefault((name, row, column), _Filling())
                if run.id in filling.runs:
                    continue  # the same run in two grids
                replicate = tuple(axis_value(definition, run, place, key) for key in definition.over)
                if replicate in filling.runs.values():
                    clashes.add(f"row {row}, column {column}")
                    replicate = (*replicate, run.id)
                if not _fill(filling, run, replicate, metric, name, class_):
                    unmeasured.add(run.id)
    found = {run.id: run.result for filling in fillings.values() for run in filling.found.values() if run.result}
    mixed = mixture(found.values())
    cells = {key: _finish(filling, mixed) for key, filling in fillings.items()}
    columns = sort_axis(column for _, _, column in cells)
    baseline = _baseline(definition, columns)
    notes = [f"several runs per {' and '.join(definition.over)} are pooled in {clash}" for clash in sorted(clashes)]
    if undefined := sum(cell.undefined for cell in cells.values()):
        notes.append(f"{{k}}: {undefined} undefined values of the {metric.label} (a mask is empty) are left out")
    tolerances = sorted({f"{result.nsd_mm:g}" for result in found.values() if result.nsd_mm is not None})
    if metric.key == "nsd" and tolerances:
        many = "; values of different ones cannot be compared" if len(tolerances) > 1 else ""
        notes.append(f"tolerance {' and '.join(tolerances)} mm{many}")
    if unmeasured:
        notes.append(f"{len(unmeasured)} runs were measured without the {metric.label}, and count as missing")
    return Table(
        definition,
        metric,
        definition.sets,
        rows=sort_axis(row for _, row, _ in cells),
        columns=columns,
        cells=cells,
        baseline=baseline,
        contrasts={} if baseline is None else _contrasts(cells, baseline, metric),
        notes=tuple(notes),
        mixed=mixed,
    )


def _contrasts(cells: Mapping[Key, Cell], baseline: Axis, metric: Metric) -> dict[Key, Contrast]:
    """Contrast of every cell that has one, with p corrected over all of them."""
    found = {
        (name, row, column): contrast
        for (name, row, column), cell in cells.items()
        if column != baseline
        if (contrast := contrast_cells(cell, cells.get((name, row, baseline)), metric)) is not None
    }
    by_case = holm([contrast.by_case.p for contrast in found.values()])
    by_replicate = holm([contrast.by_replicate.p for contrast in found.values()])
    return {
        key: replace(contrast, p=p, replicate_p=replicate_p)
        for (key, contrast), p, replicate_p in zip(found.items(), by_case, by_replicate, strict=True)
    }


@dataclass(frozen=True)
class Improved:
    """Share of improved cells over several tables; `beside`: the same of what stands beside them, if anything does."""

    tables: tuple[str, ...]
    better: int
    compared: int
    label: str = ""
    beside: tuple[int, int] = (0, 0)


def improved_in_all(tables: Iterable[Table]) -> Improved | None:
    """Improved and compared cells of all tables with the same metric, columns' key and baseline as the first of them.

    The paper's "75 % of the experiments" are those of its tables 7 and 8 together. A cell of the same runs against the
    same baseline's counts once. None where fewer than two tables can be taken together.
    """
    chosen: list[Table] = []
    better: dict[object, bool] = {}
    for table in tables:
        if table.contrasts and (not chosen or _kind(table) == _kind(chosen[0])):
            chosen.append(table)
            for key, contrast in table.contrasts.items():
                against = table.cells.get((*key[:2], table.baseline)) if table.baseline is not None else None
                runs = [tuple(sorted(cell.runs)) for cell in (table.cells[key], against) if cell]
                better[key[0], *runs] = contrast.improved
    if len(chosen) < 2:
        return None
    others = [table.beside for table in chosen if table.beside and table.beside.improved[1]]
    return Improved(
        tables=tuple(table.definition.name for table in chosen),
        better=sum(better.values()),
        compared=len(better),
        label=others[0].label if len(others) == len(chosen) else "",
        beside=(sum(one.improved[0] for one in others), sum(one.improved[1] for one in others)),
    )


def _kind(table: Table) -> tuple[object, ...]:
    return table.metric.key, table.definition.columns, table.baseline


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


def _classes(collection: Collection) -> tuple[int, ...]:
    scores = (score for run in collection.runs if run.result for found in run.result.sets.values() for score in found)
    return tuple(sorted({score.class_ for score in scores})) or (1,)


def _positions(
    definition: TableDefinition, run: Run, place: Place, classes: Sequence[int | None]
) -> list[tuple[Axis, Axis, int | None]]:
    """Row, column and class of every cell that the run contributes to; class None: the mean over classes."""
    positions: list[tuple[Axis, Axis, int | None]] = []
    for class_ in classes:
        row, column = (
            class_ if key == CLASS and class_ is not None else axis_value(definition, run, place, key)
            for key in (definition.rows, definition.columns)
        )
        positions.append((row, column, class_))
    return positions


def _fill(filling: _Filling, run: Run, replicate: Replicate, metric: Metric, name: str, class_: int | None) -> bool:
    """Add a run's values; False where it has scores of the set, but of other metrics only."""
    filling.runs[run.id] = replicate
    scores = run.result.sets.get(name) if run.result else None
    if not run.result or not scores:
        return True
    if not any(metric.key in score.model_fields_set for score in scores):
        return False
    filling.found[run.id] = run
    filling.undefined += sum(class_ in (None, score.class_) and score.value(metric) is None for score in scores)
    for case, value in run.result.case_means(name, metric, class_).items():
        filling.values[replicate, case] = value
    return True


def _finish(filling: _Filling, mixed: Mixture) -> Cell:
    return Cell(
        values=filling.values,
        expected=len(filling.runs),
        present=len(filling.found),
        missing=tuple(replicate for run, replicate in filling.runs.items() if run not in filling.found),
        undefined=filling.undefined,
        runs=filling.runs,
        stale=tuple(run.id for run in filling.found.values() if run.stale),
        odd=tuple(run for run in filling.found if run in mixed.odd),
    )


def _baseline(definition: TableDefinition, columns: tuple[Axis, ...]) -> Axis | None:
    if definition.baseline == "none":
        return None
    if definition.baseline is not None:
        if definition.baseline not in columns:
            raise BadInput(f"{definition.name!r}: baseline {definition.baseline!r} is none of its columns {columns}")
        chosen: Axis = definition.baseline
        return chosen
    if REFERENCE in columns:
        return REFERENCE
    return columns[0] if len(columns) > 1 else None
