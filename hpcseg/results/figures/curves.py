"""Curves: a mean score against x with intervals, and losses by epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hpcseg.errors import BadInput
from hpcseg.paths import HISTORY_FILE, RUN_FILE
from hpcseg.results.figures.legends import Labels, legend_hues, runs_note
from hpcseg.results.figures.style import (
    COLUMN,
    GREY,
    LINES,
    MARKERS,
    PAGE,
    colours,
    finish,
    lettered,
    new_figure,
    ranks,
    set_scale,
    set_ticks,
    set_title,
)
from hpcseg.results.model import Collection
from hpcseg.results.tables.axes import sort_axis
from hpcseg.results.tables.tables import Cell, Table, bootstrap_interval, select_runs
from hpcseg.spec import TrainSpec, read_spec
from hpcseg.study.tables import Axis, FigureDefinition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = {"training": "-", "validation": ":"}  # line styles
_APART = 0.1  # between the hues at one x, in steps of x


def draw_curve(
    definition: FigureDefinition, table: Table, labels: Labels, note: str, metric: str, sizes: Mapping[Axis, float]
) -> Figure:
    """Mean score against x with 95 % bootstrap intervals over cases; a hollow marker where runs are missing.

    Args:
        metric: name of the score, with its unit.
        sizes: number that a value of x that is none stands for ("all": the volumes of its runs).
    """
    figure = new_figure(COLUMN, 2.6)
    axes = figure.subplots()
    set_title(axes, definition.title, COLUMN)
    where = x_positions(table.rows, sizes)
    set_ticks(axes, [where[row] for row in table.rows], tick_labels(table.rows, labels, sizes), COLUMN - 0.6)
    axes.set_xlim(min(where.values()) - 0.5, max(where.values()) + 0.5)
    axes.set_xlabel(labels.x_axis)
    axes.set_ylabel(metric)
    set_scale(axes)
    for index, column in enumerate(table.columns):
        shift = (index - (len(table.columns) - 1) / 2) * _APART
        found = [(where[row] + shift, table.cells.get((definition.set, row, column))) for row in table.rows]
        _curve(axes, [(x, cell) for x, cell in found if cell is not None], *_look(column, table.columns))
    finish(figure, _handles(labels, table.columns), note)
    return figure


def x_positions(values: Sequence[Axis], sizes: Mapping[Axis, float]) -> dict[Axis, float]:
    """Where values of x stand: on a logarithmic axis (base 2) if most are powers of 2, else one after the other."""
    numbers = {value: sizes.get(value, value) for value in values}
    powers = [n for n in numbers.values() if isinstance(n, int) and not isinstance(n, bool) and _is_power(n)]
    others = [n for n in numbers.values() if not isinstance(n, int | float) or isinstance(n, bool) or n <= 0]
    if others or len(powers) < 2 or len(powers) < len(values) - 1:
        return {value: float(position) for position, value in enumerate(values)}
    return {value: math.log2(float(n)) for value, n in numbers.items() if isinstance(n, int | float)}


def tick_labels(values: Sequence[Axis], labels: Labels, sizes: Mapping[Axis, float]) -> list[str]:
    """Values of x as the axis writes them: "all" with its number, where that is known."""
    return [labels.x(value) + (f" ({sizes[value]:.0f})" if value in sizes else "") for value in values]


def sizes_of_all(definition: FigureDefinition, collection: Collection, runs_root: Path) -> dict[Axis, float]:
    """Mean number of labelled volumes of the runs with `labelled = "all"`, as far as their specifications are there."""
    if definition.x != "labelled":
        return {}
    found = [runs for (row, _), runs in select_runs(definition.as_table(), collection).items() if row == "all"]
    folders = [runs_root / "train" / run.id for runs in found for _, run in runs]
    specs = [read_spec(folder) for folder in folders if (folder / RUN_FILE).exists()]
    counts = [len(spec.labelled.cases) for spec in specs if isinstance(spec, TrainSpec)]
    return {"all": fmean(counts)} if counts else {}


def draw_learning(
    definition: FigureDefinition, collection: Collection, runs_root: Path, labels: Labels
) -> Figure | str:
    """Loss by epoch, or why there is none: a panel per x, a colour and marker per hue; validation is dotted.

    A line is the mean over the runs that reached the epoch.
    """
    histories = {
        key: [read_history(runs_root / "train" / run.id / HISTORY_FILE) for _, run in found]
        for key, found in select_runs(definition.as_table(), collection).items()
    }
    counts = [sum(map(bool, found)) for found in histories.values() if any(found)]
    if not counts:
        return "no run has a history yet"
    rows, columns = sort_axis(row for row, _ in histories), sort_axis(column for _, column in histories)
    across = min(4, len(rows))
    down = math.ceil(len(rows) / across)
    width = COLUMN if across == 1 else PAGE
    figure = new_figure(width, 0.55 + 1.5 * down + (0.5 if down == 1 else 0))
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for number, (row, axes) in enumerate(zip(rows, panels, strict=False)):
        set_title(axes, lettered(number, len(rows), labels.panel(row)), (width - 0.4) / across)
        _loss_axes(axes)
        for column in columns:
            _losses(axes, histories.get((row, column), []), *_look(column, columns)[:2])
    for axes in panels[::across]:
        axes.set_ylabel("Loss")
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    finish(
        figure,
        _handles(labels, columns, lines=False) + _loss_handles(),
        f"Lines: {runs_note(definition, counts, collection)}",
    )
    return figure


def read_history(path: Path) -> list[dict[str, Any]]:
    """Lines of history.jsonl, [] where there is none; a last line that is being written is left out.

    Raises:
        BadInput: another line is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            history.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise BadInput(f"{path}: line {number} is not JSON ({error.msg}); retry the run") from None
    return history


def _is_power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _look(column: Axis, columns: Sequence[Axis]) -> tuple[str, str, Any]:
    """Colour, marker and line of a hue."""
    rank = ranks(columns)[column]
    return colours(columns)[column], MARKERS[rank % len(MARKERS)], LINES[rank % len(LINES)]


def _curve(axes: Axes, found: list[tuple[float, Cell]], colour: str, marker: str, line: Any) -> None:
    cells = [(x, cell, cell.mean) for x, cell in found if cell.mean is not None]
    axes.plot([x for x, _, _ in cells], [mean for _, _, mean in cells], color=colour, lw=1.0, ls=line, zorder=2)
    for x, cell, mean in cells:
        interval = bootstrap_interval(cell)
        if interval is not None:
            axes.plot([x, x], interval, color=colour, lw=0.9, solid_capstyle="butt", zorder=2)
        face = colour if cell.present == cell.expected else "white"
        axes.plot(x, mean, marker, ms=3.5, color=colour, mfc=face, mew=0.9, zorder=3)


def _loss_axes(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    set_scale(axes)
    axes.set_xlabel("Epoch")


def _losses(axes: Axes, histories: list[list[dict[str, Any]]], colour: str, marker: str) -> None:
    for key, style in LOSSES.items():
        by_epoch: dict[int, list[float]] = {}
        for line in (line for history in histories for line in history):
            if line.get(f"{key}_loss") is not None:
                by_epoch.setdefault(line["epoch"], []).append(line[f"{key}_loss"])
        epochs = sorted(by_epoch)
        means = [fmean(by_epoch[epoch]) for epoch in epochs]
        marks: Any = {"marker": marker, "ms": 2.4, "markevery": max(1, len(epochs) // 6)} if key == "training" else {}
        axes.plot(epochs, means, style, color=colour, lw=0.8, **marks)


def _handles(labels: Labels, columns: Sequence[Axis], *, lines: bool = True) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for column, text in legend_hues(labels, columns):
        colour, marker, line = _look(column, columns)
        style = line if lines else "-"
        handles.append(Line2D([], [], color=colour, marker=marker, ms=3.5, lw=1.0, ls=style, label=text))
    if handles and labels.hue_axis:
        handles.insert(0, Line2D([], [], ls="", label=f"{labels.hue_axis}:"))
    return handles


def _loss_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=GREY, lw=0.9, ls=style, label=text) for text, style in LOSSES.items()]
