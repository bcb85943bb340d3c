"""Figures of a sweep, at the size they are printed, as PNG and as PDF.

A figure that lacks what it would show is not drawn, and `report` is told why. matplotlib is used through Figure
objects, and its settings are afterwards as they were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hpcseg.errors import BadInput
from hpcseg.results.axes import label, sort_axis
from hpcseg.results.collect import Collection, FigureDefinition, TableDefinition
from hpcseg.results.examples import draw_examples
from hpcseg.results.style import COLUMN, PAGE, SETTINGS, YELLOW, colours, new_figure, save
from hpcseg.results.tables import Table, bootstrap_interval, build_table, select_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = {"training": "-", "validation": ":"}  # line styles


def draw_figures(
    collection: Collection, runs_root: Path, folder: Path, *, report: Callable[[str], None] | None = None
) -> list[Path]:
    """Draw every figure of the sweep into `folder`.

    Args:
        runs_root: folder of all runs; histories, specifications and predicted masks are read from there.
        report: called with one line for each figure that cannot be drawn yet.

    Returns:
        The files written, a PNG and a PDF per figure.

    Raises:
        BadInput: a definition names an axis or grid that the sweep does not have.
    """
    import matplotlib

    paths: list[Path] = []
    with matplotlib.rc_context(SETTINGS):
        for definition in collection.figures:
            figure = _draw(definition, collection, runs_root)
            if isinstance(figure, str):
                if report is not None:
                    report(f"figure {definition.name} is not drawn: {figure}")
            else:
                paths += save(figure, folder, definition.name)
    return paths


def _draw(definition: FigureDefinition, collection: Collection, runs_root: Path) -> Figure | str:
    """The figure, or why there is none."""
    if definition.kind == "learning":
        return draw_learning(definition, collection, runs_root)
    if definition.kind == "examples":
        return draw_examples(definition, collection, runs_root)
    table = build_table(as_table(definition), collection)
    if not any(cell.values for cell in table.cells.values()):
        return f"no run has results for the {definition.set} set yet"
    return (draw_boxes if definition.kind == "box" else draw_curve)(definition, table)


def as_table(definition: FigureDefinition) -> TableDefinition:
    """The table whose cells a figure shows: x as rows, hue as columns."""
    return TableDefinition(
        name=definition.name,
        grid=definition.grid,
        rows=definition.x,
        columns=definition.hue,
        over=definition.over,
        sets=(definition.set,),
    )


def draw_boxes(definition: FigureDefinition, table: Table) -> Figure:
    """Box plots of all cases and folds, means as yellow triangles, whiskers of 1.5 IQR (paper, figures 4 to 7)."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    boxes = len(table.rows) * len(table.columns)
    figure = new_figure(PAGE if boxes > 9 else COLUMN, 2.6)
    axes = _axes(figure, definition, table)
    palette, width = colours(table.columns), 0.8 / len(table.columns)
    lowest = 1.0
    for position, row in enumerate(table.rows):
        for index, column in enumerate(table.columns):
            cell = table.cells.get((definition.set, row, column))
            if cell is None:
                continue
            x = position + (index - (len(table.columns) - 1) / 2) * width
            if cell.present < cell.expected:
                share = f"{cell.present}/{cell.expected}"
                axes.text(x, 0.01, share, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=5)
            if cell.values:
                _box(axes, x, 0.82 * width, list(cell.values.values()), palette[column])
                lowest = min(lowest, *cell.values.values())
    axes.set_ylim(_floor(lowest), 1.0)
    handles: list[Any] = [
        Patch(facecolor=_pale(palette[c]), edgecolor=palette[c], label=label(c)) for c in table.columns
    ]
    mean = Line2D([], [], linestyle="", marker="^", ms=4, mfc=YELLOW, mec="black", mew=0.4, label="mean")
    figure.legend(handles=[*handles, mean], loc="outside lower center", ncols=len(handles) + 1)
    return figure


def draw_curve(definition: FigureDefinition, table: Table) -> Figure:
    """Mean DSC against x with 95 % bootstrap intervals over cases; a hollow marker where runs are missing."""
    figure = new_figure(COLUMN, 2.5)
    axes = _axes(figure, definition, table)
    palette = colours(table.columns)
    for index, column in enumerate(table.columns):
        shift = (index - (len(table.columns) - 1) / 2) * 0.12
        found = [(n, table.cells.get((definition.set, row, column))) for n, row in enumerate(table.rows)]
        cells = [(n + shift, cell, cell.mean) for n, cell in found if cell is not None and cell.mean is not None]
        colour = palette[column]
        axes.plot([x for x, _, _ in cells], [mean for _, _, mean in cells], color=colour, lw=1.0, zorder=2)
        for x, cell, mean in cells:
            interval = bootstrap_interval(cell)
            if interval is not None:
                axes.plot([x, x], interval, color=colour, lw=0.9, solid_capstyle="butt", zorder=2)
            face = colour if cell.present == cell.expected else "white"
            axes.plot(x, mean, "osD^v<>p"[index % 8], ms=3.5, color=colour, mfc=face, mew=0.9, zorder=3)
        axes.plot([], [], "osD^v<>p"[index % 8], ms=3.5, ls="-", lw=1.0, color=colour, label=label(column))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def draw_learning(definition: FigureDefinition, collection: Collection, runs_root: Path) -> Figure | str:
    """Loss by epoch: a panel per x, a colour per hue; training solid, validation dotted.

    A line is the mean over the runs that reached the epoch.
    """
    runs = select_runs(as_table(definition), collection)
    histories = {
        key: [read_history(runs_root / "train" / run.id / "history.jsonl") for _, run in found]
        for key, found in runs.items()
    }
    if not any(history for found in histories.values() for history in found):
        return "no run has a history yet"
    rows, columns = sort_axis(row for row, _ in runs), sort_axis(column for _, column in runs)
    across = min(4, len(rows))
    down = math.ceil(len(rows) / across)
    figure = new_figure(COLUMN if across == 1 else PAGE, 0.5 + 1.6 * down if down > 1 else 2.2)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    palette = colours(columns)
    for row, axes in zip(rows, panels, strict=False):
        axes.set_title(f"{label(definition.x)} = {label(row)}", loc="left")
        axes.grid(axis="y")
        axes.set_xlabel("Epoch")
        for column in columns:
            _losses(axes, histories.get((row, column), []), palette[column])
    for axes in panels[::across]:
        axes.set_ylabel("Loss")
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    _learning_legend(figure, [(label(column), palette[column]) for column in columns])
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


def _losses(axes: Axes, histories: list[list[dict[str, Any]]], colour: str) -> None:
    for key, style in LOSSES.items():
        by_epoch: dict[int, list[float]] = {}
        for line in (line for history in histories for line in history):
            if line.get(f"{key}_loss") is not None:
                by_epoch.setdefault(line["epoch"], []).append(line[f"{key}_loss"])
        epochs = sorted(by_epoch)
        axes.plot(epochs, [fmean(by_epoch[epoch]) for epoch in epochs], style, color=colour, lw=0.8)


def _learning_legend(figure: Figure, entries: list[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, lw=1.2, label=text) for text, colour in entries]
    handles += [Line2D([], [], color="black", lw=0.8, ls=style, label=text) for text, style in LOSSES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _axes(figure: Figure, definition: FigureDefinition, table: Table) -> Axes:
    axes = figure.subplots()
    axes.set_title(definition.title, loc="left")
    axes.set_xticks(range(len(table.rows)), [label(row) for row in table.rows])
    axes.set_xlim(-0.5, len(table.rows) - 0.5)
    axes.set_xlabel("Labelled training volumes n" if definition.x == "labelled" else label(definition.x))
    axes.set_ylabel("DSC")
    axes.grid(axis="y")
    return axes


def _box(axes: Axes, x: float, width: float, values: list[float], colour: str) -> None:
    line = {"color": colour, "linewidth": 0.8}
    axes.boxplot(
        values,
        positions=[x],
        widths=width,
        whis=1.5,
        showmeans=True,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": _pale(colour), "edgecolor": colour, "linewidth": 0.8},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": "black", "linewidth": 0.9},
        meanprops={
            "marker": "^",
            "markersize": 4,
            "markerfacecolor": YELLOW,
            "markeredgecolor": "black",
            "markeredgewidth": 0.4,
        },
        flierprops={"marker": "o", "markersize": 1.6, "markerfacecolor": colour, "markeredgecolor": "none"},
    )


def _pale(colour: str) -> tuple[float, float, float]:
    """The colour as a filling: half way to white."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return (1 + red) / 2, (1 + green) / 2, (1 + blue) / 2


def _floor(lowest: float) -> float:
    """Lower end of the DSC axis, on a twentieth below the data."""
    return max(0.0, math.floor(20 * (lowest - 0.01)) / 20)
