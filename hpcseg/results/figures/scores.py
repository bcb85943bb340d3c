"""Scores against x with a colour for each hue: box plots, and means with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcseg.results.collection import Collection
from hpcseg.results.figures import style
from hpcseg.results.figures.legends import Labels, cells_note, hue_handles, labels_of
from hpcseg.results.tables.axes import axis_value, places
from hpcseg.results.tables.cells import Cell, bootstrap_interval
from hpcseg.results.tables.tables import Table, build_table
from hpcseg.study.tables import Axis, FigureDefinition

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDEST = 0.45  # inches for a box
_APART, _SPREAD = 5.0, 0.35  # between the means of hues at one x: points, and of all of them at most, in steps of x
_GOLDEN = 0.618034  # multiples of it are spread evenly over a unit, however many there are
_FEW = 24  # scores of a box up to which each is shown
_MEAN: Any = {"marker": "^", "ms": 4, "mfc": style.YELLOW, "mec": "black", "mew": 0.4}


@dataclass(frozen=True)
class Scores:
    """What a figure shows: rows of the table along x, a column for each hue, as far as there are results.

    Attributes:
        rows, columns: those with any result.
        sizes: number that a value of x that is none stands for ("all": the volumes of its runs).
        note: how many scores there are, of which seeds.
    """

    definition: FigureDefinition
    table: Table
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    labels: Labels
    sizes: Mapping[Axis, float]
    note: str

    def cells(self) -> Iterator[tuple[Axis, Axis, float, Cell]]:
        """Every cell with its x, its hue, and how far right of the middle of the hues that stands, in hues."""
        for row in self.rows:
            for index, column in enumerate(self.columns):
                cell = self.table.cells.get((self.definition.set, row, column))
                if cell is not None:
                    yield row, column, index - (len(self.columns) - 1) / 2, cell

    def missing_note(self, mark: str) -> str:
        """What `mark` means, where a run is missing, and which values are not there at all; else ""."""
        waiting = [self.labels.hue(column) for column in self.table.columns if column not in self.columns]
        waiting += [self.labels.panel(row) for row in self.table.rows if row not in self.rows]
        note = f" {mark}" if any(cell.present < cell.expected for *_, cell in self.cells()) else ""
        return note + (f" No results yet: {', '.join(waiting)}." if waiting else "")


def draw_boxes(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """Box plots of all cases and folds, means as yellow triangles, whiskers of 1.5 IQR (paper, figures 4 to 7)."""
    scores = _read_scores(definition, collection)
    if isinstance(scores, str):
        return scores
    rows, columns, look = scores.rows, scores.columns, style.looks(scores.table.columns)
    page = style.PAGE if len(rows) * len(columns) > 9 else style.COLUMN
    where = {row: float(position) for position, row in enumerate(rows)}
    figure, axes = _axes(scores, page, 2.7, where)
    width = min(0.8 / len(columns), WIDEST * len(rows) / (page - 0.6))
    for row, column, shift, cell in scores.cells():
        x = where[row] + shift * width
        if cell.values:
            _box(axes, x, 0.8 * width, cell.flat, look[column])
        if cell.present < cell.expected:
            text, inside = f"{cell.present}/{cell.expected}", axes.get_xaxis_transform()
            axes.text(x, 0.01, text, transform=inside, ha="center", va="bottom", fontsize=style.SMALL)
    _limits(axes, scores)
    note = f"Boxes: {scores.note} Whiskers: 1.5 IQR."
    counts = {len(cell.flat) for *_, cell in scores.cells() if cell.values}
    if min(counts) <= _FEW:
        note += " Points: single scores" + (f" of boxes with {_FEW} at most." if max(counts) > _FEW else ".")
    note += scores.missing_note("k/m: k of m runs have results.")
    style.finish(figure, _box_handles(scores), note)
    return figure


def draw_curve(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """Mean score against x with 95 % bootstrap intervals over cases; a hollow marker where runs are missing."""
    scores = _read_scores(definition, collection)
    if isinstance(scores, str):
        return scores
    columns, look = scores.columns, style.looks(scores.table.columns)
    where = x_positions(scores.rows, scores.sizes)
    figure, axes = _axes(scores, style.COLUMN, 2.6, where)
    apart = _apart(list(where.values()), len(columns), style.COLUMN)
    points: dict[Axis, list[tuple[float, float, Cell]]] = {column: [] for column in columns}
    for row, column, shift, cell in scores.cells():
        points[column].append((where[row], where[row] + shift * apart, cell))
    for column, found in points.items():
        _curve(axes, found, apart * (len(columns) - 1) / 2, look[column])
    note = f"Means with 95 % bootstrap intervals over cases; {scores.note}"
    note += scores.missing_note("Hollow: some runs are missing.")
    style.finish(figure, line_handles(scores.labels, columns, scores.table.columns), note)
    return figure


def _apart(places: Sequence[float], hues: int, width: float) -> float:
    """How far hues stand from each other at one x, in units of x, on axes that leave 0.6 of `width` inches beside."""
    steps = [after - before for before, after in pairwise(sorted(places))]
    unit = (max(places) - min(places) + 1) / (width - 0.6) / 72  # of a point
    return min(_APART * unit, _SPREAD * min(steps, default=1.0) / max(hues - 1, 1))


def x_positions(values: Sequence[Axis], sizes: Mapping[Axis, float]) -> dict[Axis, float]:
    """Where values of x stand: on a logarithmic axis (base 2) if most are powers of 2, else one after the other."""
    numbers = {value: sizes.get(value, value) for value in values}
    powers = [n for n in numbers.values() if isinstance(n, int) and not isinstance(n, bool) and _is_power(n)]
    others = [n for n in numbers.values() if not isinstance(n, int | float) or isinstance(n, bool) or n <= 0]
    if others or len(powers) < 2 or len(powers) < len(values) - 1:
        return {value: float(position) for position, value in enumerate(values)}
    return {value: math.log2(float(n)) for value, n in numbers.items() if isinstance(n, int | float)}


def line_handles(
    labels: Labels, columns: Sequence[Axis], known: Sequence[Axis], *, solid: bool = False
) -> list[Artist]:
    """A legend of the lines of some of the hues `known`, with their markers."""
    from matplotlib.lines import Line2D

    look = style.looks(known)

    def handle(value: Axis, text: str) -> Artist:
        one = look[value]
        line = "-" if solid else one.line
        return Line2D([], [], color=one.colour, marker=one.marker, ms=3.5, lw=1.0, ls=line, label=text)

    return hue_handles(labels, columns, handle)


def _read_scores(definition: FigureDefinition, collection: Collection) -> Scores | str:
    """What there is to show, or why there is nothing."""
    table = build_table(definition.as_table(), collection)
    there = {(row, column) for (_, row, column), cell in table.cells.items() if cell.values}
    if not there and any(cell.undefined for cell in table.cells.values()):
        return f"the {table.metric.label} of the {definition.set} set is undefined throughout"
    if not there:
        return f"no run has results for the {definition.set} set yet"
    rows = tuple(row for row in table.rows if any(row == one for one, _ in there))
    columns = tuple(column for column in table.columns if any(column == one for _, one in there))
    labels, sizes = labels_of(definition, collection), _sizes_of_all(definition, collection)
    return Scores(definition, table, rows, columns, labels, sizes, cells_note(definition, table, collection))


def _sizes_of_all(definition: FigureDefinition, collection: Collection) -> dict[Axis, float]:
    """Mean number of labelled volumes of the runs with `labelled = "all"`, as far as it is known."""
    if definition.x != "labelled":
        return {}
    table = definition.as_table()
    found = {
        run.id: run for run, place in places(table, collection) if axis_value(table, run, place, "labelled") == "all"
    }
    chosen = list(found.values())
    numbers: dict[str, int] = {}
    for run in chosen:
        numbers[run.volumes] = numbers.get(run.volumes) or len(run.labelled_cases)
    counts = [number for run in chosen if (number := numbers[run.volumes])]
    return {"all": fmean(counts)} if counts else {}


def _is_power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _axes(scores: Scores, width: float, height: float, where: Mapping[Axis, float]) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with the values of x at their places."""
    figure = style.new_figure(width, height)
    axes = figure.subplots()
    style.set_title(axes, scores.definition.title, width)
    sizes = scores.sizes
    texts = [scores.labels.x(row) + (f" ({sizes[row]:.0f})" if row in sizes else "") for row in where]
    style.set_ticks(axes, list(where.values()), texts, width - 0.6)
    axes.set_xlim(min(where.values()) - 0.5, max(where.values()) + 0.5)
    axes.set_xlabel(scores.labels.x_axis)
    axes.set_ylabel(scores.table.metric.name)
    style.set_scale(axes)
    return figure, axes


def _limits(axes: Axes, scores: Scores) -> None:
    """A share ends at 1 and begins on a twentieth below the data; marks of missing runs have room below the boxes."""
    if scores.table.metric.highest != 1:
        axes.margins(y=0.12)
        return
    cells = [cell for *_, cell in scores.cells()]
    lowest = min(value for cell in cells for value in cell.flat)
    missing = any(cell.present < cell.expected for cell in cells)
    floor = max(0.0, math.floor(20 * (lowest - 0.01)) / 20)
    axes.set_ylim(floor - (0.07 * (1 - floor) if missing else 0), 1.0)


def _box(axes: Axes, x: float, width: float, values: list[float], look: style.Look) -> None:
    line: Any = {"color": look.colour, "linewidth": 0.8}
    box = {"facecolor": style.pale(look.colour), "edgecolor": look.colour, "linewidth": 0.8, "hatch": look.hatch}
    outlier = {"marker": "o", "markersize": 1.6, "markerfacecolor": look.colour, "markeredgecolor": "none"}
    median = {"color": "black", "linewidth": 1.2, "solid_capstyle": "butt"}
    parts: Any = {"boxprops": box, "whiskerprops": line, "capprops": line, "medianprops": median}
    parts |= {"meanprops": _MEAN, "flierprops": outlier}
    layout: Any = {"positions": [x], "widths": width, "manage_ticks": False, "patch_artist": True}
    few = len(values) <= _FEW
    axes.boxplot(np.array(values), whis=1.5, showmeans=True, showfliers=not few, **layout, **parts)
    if few:
        places = [x + width * (rank * _GOLDEN % 1 - 0.5) * 0.7 for rank in range(len(values))]
        axes.plot(places, values, "o", ms=1.8, mfc=look.colour, mec="white", mew=0.3, zorder=3)


def _box_handles(scores: Scores) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    look = style.looks(scores.table.columns)

    def handle(value: Axis, text: str) -> Artist:
        one = look[value]
        return Patch(facecolor=style.pale(one.colour), edgecolor=one.colour, hatch=one.hatch, lw=0.8, label=text)

    return [*hue_handles(scores.labels, scores.columns, handle), Line2D([], [], ls="", label="mean", **_MEAN)]


def _curve(axes: Axes, found: Sequence[tuple[float, float, Cell]], ledge: float, look: style.Look) -> None:
    """A hue's means and intervals, each moved aside, on a line that is level for `ledge` on both sides of x.

    So lines cross where the means do: between two values of x all of them begin and end at the same two places.
    """
    cells = [(x, aside, cell, cell.mean) for x, aside, cell in found if cell.mean is not None]
    ends = (-ledge, ledge) if ledge else (0.0,)
    line = [(x + end, mean) for x, _, _, mean in cells for end in ends]
    axes.plot([x for x, _ in line], [mean for _, mean in line], color=look.colour, lw=1.0, ls=look.line, zorder=2)
    for _, aside, cell, mean in cells:
        interval = bootstrap_interval(cell)
        if interval is not None:
            axes.plot([aside, aside], interval, color=look.colour, lw=0.9, solid_capstyle="butt", zorder=2)
        face = look.colour if cell.present == cell.expected else "white"
        axes.plot(aside, mean, look.marker, ms=3.5, color=look.colour, mfc=face, mew=0.9, zorder=3)
