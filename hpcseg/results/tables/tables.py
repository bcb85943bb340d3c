"""Tables of what was measured: cells that know what is missing, and paired contrasts with the baseline. Pure.

A replicate is one run of a cell: a fold, or one value of each axis in the definition's `over`. Standard deviations are
sample standard deviations (n - 1). Means and SDs are over cases pooled over replicates; the SD over the replicates'
means and the mean of the replicates' SDs stand beside them in every export. (The paper calls its table 7 "averaged over
the cross-validation folds" and does not say which of these its SDs are; see docs/fidelity.md.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import NamedTuple

from hpcseg.errors import BadInput
from hpcseg.inference.metrics import METRICS, Metric
from hpcseg.registry import REFERENCE
from hpcseg.results.collection import Collection, Result, Run
from hpcseg.results.freshness import Mixture, mixture
from hpcseg.results.scores import Scores
from hpcseg.results.tables.axes import as_toml, axis_value, free_axes, label, places, sort_axis
from hpcseg.results.tables.cells import (
    Beside,
    Cell,
    Contrast,
    Key,
    OfClasses,
    Replicate,
    contrast_cells,
)
from hpcseg.results.tables.statistics import holm
from hpcseg.study.tables import CLASS, Axis, TableDefinition
from hpcseg.text import counted


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

        Where all runs and values are there, that is whether the cell's mean is better, as the paper counts (its 75 %).
        """
        return sum(contrast.improved for contrast in self.contrasts.values()), len(self.contrasts)

    @property
    def title(self) -> str:
        """As the sweep file has it, else its name."""
        return self.definition.title or self.definition.name

    def mean(self, key: Key) -> float | None:
        """Of a cell; None where there is none."""
        cell = self.cells.get(key)
        return cell.mean if cell else None

    def row_label(self, value: Axis) -> str:
        """A row, or the key of all rows, as it is printed."""
        return self.definition.row_labels.get(as_toml(value), label(value))

    def column_label(self, value: Axis) -> str:
        """A column as it is printed."""
        return self.definition.column_labels.get(as_toml(value), label(value))


class _Entry(NamedTuple):
    """A run's part in a cell; class None: the mean over classes; `others`: its values on axes without a role."""

    run: Run
    replicate: Replicate
    class_: int | None
    others: tuple[str, ...]

    def scores(self, name: str, metric: Metric) -> Scores | None:
        """Those of the set; None where the run has no result of it, or one of other metrics only."""
        found = self.run.result.sets.get(name) if self.run.result else None
        return found if found and metric.key in found.measured else None


Entries = Mapping[Key, Mapping[str, _Entry]]  # by cell and id of the run


def build_table(definition: TableDefinition, collection: Collection) -> Table:
    """Arrange the results of a sweep as `definition` says.

    Raises:
        BadInput: the definition names an axis, a grid or a baseline that there is not.
    """
    metric = METRICS[definition.metric]
    entries, notes = _arrange(definition, collection)
    with_scores: dict[str, Result] = {}
    others: set[str] = set()
    for (name, _, _), found in entries.items():
        for run_id, entry in found.items():
            result = entry.run.result
            if result and entry.scores(name, metric):
                with_scores[run_id] = result
            elif result and result.sets.get(name):
                others.add(run_id)
    mixed = mixture(with_scores.values())
    cells = {key: _cell(found, key[0], metric, mixed) for key, found in entries.items()}
    columns = sort_axis(column for _, _, column in cells)
    baseline = _baseline(definition, columns)
    contrasts = {} if baseline is None else _contrasts(cells, baseline, metric, entries)
    notes += _notes(metric, cells.values(), with_scores.values())
    if unpaired := sum(contrast.unpaired for contrast in contrasts.values()):
        notes.append(f"differences leave out {counted(unpaired, 'value')} of a class that only one of both has")
    if others:
        notes.append(f"{len(others)} runs were measured without the {metric.label}, and count as missing")
    return Table(
        definition,
        metric,
        definition.sets,
        rows=sort_axis(row for _, row, _ in cells),
        columns=columns,
        cells=cells,
        baseline=baseline,
        contrasts=contrasts,
        notes=tuple(notes),
        mixed=mixed,
    )


def _arrange(definition: TableDefinition, collection: Collection) -> tuple[Entries, list[str]]:
    """The runs of every cell, and a note for each in which several stand in one place.

    In the rows of these, a replicate is also a value of each axis without a role: runs of one seed are compared.
    """
    found = places(definition, collection)
    of_classes = CLASS in (definition.rows, definition.columns)
    by_class = _classes((run for run, _ in found), definition.sets) if of_classes else (None,)
    axes = {definition.rows, definition.columns} - ({CLASS} if of_classes else set())
    free = free_axes(definition, (place for _, place in found))
    entries: dict[Key, dict[str, _Entry]] = {}
    for run, place in found:
        values = {key: axis_value(definition, run, place, key) for key in axes}
        of_run = tuple(axis_value(definition, run, place, key) for key in definition.over)
        others = tuple(f"{axis} = {run.axis(place, axis)}" for axis in free[place.grid])
        for class_, name in itertools.product(by_class, definition.sets):
            at = values if class_ is None else {**values, CLASS: class_}
            key = (name, at[definition.rows], at[definition.columns])
            entries.setdefault(key, {}).setdefault(run.id, _Entry(run, of_run, class_, others))  # once, if in two grids
    clashes = [key for key, runs in entries.items() if len({one.replicate for one in runs.values()}) < len(runs)]
    rows = {key[:2] for key in clashes}
    entries |= {key: _told_apart(runs) for key, runs in entries.items() if key[:2] in rows}
    over, where = " and ".join(definition.over), {f"row {row}, column {column}" for _, row, column in clashes}
    return entries, [f"several runs per {over} are pooled in {clash}" for clash in sorted(where)]


def _told_apart(runs: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """The runs of a cell, each with a replicate of its own: with its other axes, and its id where these are alike."""
    found: dict[str, _Entry] = {}
    taken: set[Replicate] = set()
    for run_id, entry in runs.items():
        replicate = (*entry.replicate, *entry.others)
        replicate = (*replicate, run_id) if replicate in taken else replicate
        taken.add(replicate)
        found[run_id] = entry._replace(replicate=replicate)
    return found


def _cell(found: Mapping[str, _Entry], name: str, metric: Metric, mixed: Mixture) -> Cell:
    present: dict[str, _Entry] = {}
    values: dict[Replicate, Mapping[str, float]] = {}
    gaps, undefined = set(), 0
    for run, entry in found.items():
        if scores := entry.scores(name, metric):
            present[run] = entry
            by_case, left_out = scores.by_case(metric, entry.class_)
            undefined += left_out
            if by_case:
                values[entry.replicate] = by_case
            if left_out:
                gaps.add(entry.replicate)
    minutes = [entry.run.seconds / 60 for entry in present.values() if entry.run.seconds is not None]
    return Cell(
        values=values,
        expected=len(found),
        present=len(present),
        missing=tuple(entry.replicate for run, entry in found.items() if run not in present),
        undefined=undefined,
        gaps=frozenset(gaps),
        runs={run: entry.replicate for run, entry in found.items()},
        stale=tuple(run for run, entry in present.items() if entry.run.stale),
        odd=tuple(run for run in present if run in mixed.odd),
        minutes=fmean(minutes) if minutes else None,
    )


def _notes(metric: Metric, cells: Iterable[Cell], results: Iterable[Result]) -> list[str]:
    """What is to be known of the values themselves."""
    notes = []
    if undefined := sum(cell.undefined for cell in cells):
        notes.append(f"{{k}}: {undefined} undefined values of the {metric.label} (a mask is empty) are left out")
    tolerances = sorted({f"{result.nsd_mm:g}" for result in results if result.nsd_mm is not None})
    if metric.key == "nsd" and tolerances:
        many = "; values of different ones cannot be compared" if len(tolerances) > 1 else ""
        notes.append(f"tolerance {' and '.join(tolerances)} mm{many}")
    return notes


def _of_classes(found: Mapping[str, _Entry], name: str, metric: Metric) -> OfClasses:
    """The scores of a cell whose values are means over classes; too many to be kept with it."""
    known = ((entry.replicate, entry.scores(name, metric)) for entry in found.values() if entry.class_ is None)
    return {replicate: scores for replicate, scores in known if scores}


def _contrasts(cells: Mapping[Key, Cell], baseline: Axis, metric: Metric, entries: Entries) -> dict[Key, Contrast]:
    """Contrast of every cell that has one, with p corrected over all of them."""
    of_classes = {key: _of_classes(found, key[0], metric) for key, found in entries.items()}
    found: dict[Key, Contrast] = {}
    for key, cell in cells.items():
        other = (*key[:2], baseline)
        if key == other or other not in cells:
            continue
        contrast = contrast_cells(cell, cells[other], metric, (of_classes[key], of_classes[other]))
        if contrast is not None:
            found[key] = contrast
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


def improved_in_all(tables: Iterable[Table], least: int = 2) -> Improved | None:
    """Improved and compared cells of all tables with the same metric, columns' key and baseline as the first of them.

    The paper's "75 % of the experiments" are those of its tables 7 and 8 together. A cell of the same runs against the
    same baseline's counts once, once for each class that has cells of its own. None where fewer than `least` tables can
    be taken together.
    """
    chosen: list[Table] = []
    better: dict[object, bool] = {}
    for table in tables:
        if table.contrasts and table.metric.better and (not chosen or _kind(table) == _kind(chosen[0])):
            chosen.append(table)
            for key, contrast in table.contrasts.items():
                against = table.cells.get((*key[:2], table.baseline)) if table.baseline is not None else None
                runs = [tuple(sorted(cell.runs)) for cell in (table.cells[key], against) if cell]
                roles = (table.definition.rows, table.definition.columns)
                classes = [value for value, role in zip(key[1:], roles, strict=True) if role == CLASS]
                better[key[0], *classes, *runs] = contrast.improved
    if len(chosen) < max(least, 1):
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

    Args:
        definition: of one set, and not of classes.

    Raises:
        BadInput: as `build_table`.
    """
    entries, _ = _arrange(definition, collection)
    return {key[1:]: [(one.replicate, one.run) for one in found.values()] for key, found in entries.items()}


def _classes(runs: Iterable[Run], sets: Iterable[str]) -> tuple[int, ...]:
    results = [run.result for run in runs if run.result]
    found = [result.sets[name].classes for result in results for name in sets if name in result.sets]
    return tuple(sorted(set().union(*found))) or (1,)


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
