"""Figures of a sweep, at the size they are printed, as PNG and as PDF.

A figure that lacks what it would show is not drawn, and `report` is told why. matplotlib is used through Figure
objects, and its settings are afterwards as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcseg.results.figures.curves import draw_curve, draw_learning, sizes_of_all, tick_labels
from hpcseg.results.figures.examples import draw_examples
from hpcseg.results.figures.learned import draw_filters
from hpcseg.results.figures.legends import Labels, cells_note, labels_of, legend_hues, missing_note
from hpcseg.results.figures.reconstructions import draw_reconstructions
from hpcseg.results.figures.style import (
    COLUMN,
    HATCHES,
    PAGE,
    SETTINGS,
    SMALL,
    YELLOW,
    colours,
    finish,
    new_figure,
    ranks,
    save,
    set_scale,
    set_ticks,
    set_title,
)
from hpcseg.results.model import Collection
from hpcseg.results.tables.tables import Table, build_table
from hpcseg.study.tables import Axis, FigureDefinition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDEST = 0.45  # inches for a box


def draw_figures(
    collection: Collection, runs_root: Path, folder: Path, *, report: Callable[[str], None] | None = None
) -> list[Path]:
    """Draw every figure of the sweep into `folder`.

    Args:
        runs_root: folder of all runs; histories, specifications, weights and predicted masks are read from there.
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
            figure = draw(definition, collection, runs_root)
            if isinstance(figure, str):
                if report is not None:
                    report(f"figure {definition.name} is not drawn: {figure}")
            else:
                paths += save(figure, folder, definition.name)
    return paths


def draw(definition: FigureDefinition, collection: Collection, runs_root: Path) -> Figure | str:
    """One figure, to be drawn and saved with the settings `SETTINGS`, or why there is none."""
    labels = labels_of(definition, collection)
    match definition.kind:
        case "learning":
            return draw_learning(definition, collection, runs_root, labels)
        case "examples":
            return draw_examples(definition, collection, runs_root, labels)
        case "filters":
            return draw_filters(definition, collection, runs_root)
        case "reconstructions":
            return draw_reconstructions(definition, collection, runs_root)
        case _:
            return _draw_scores(definition, collection, runs_root, labels)


def _draw_scores(definition: FigureDefinition, collection: Collection, runs_root: Path, labels: Labels) -> Figure | str:
    """Box plots or a curve."""
    table = build_table(definition.as_table(), collection)
    if not any(cell.values for cell in table.cells.values()):
        return f"no run has results for the {definition.set} set yet"
    note = cells_note(definition, table, collection)
    sizes = sizes_of_all(definition, collection, runs_root)
    if definition.kind == "box":
        return draw_boxes(definition, table, labels, note, sizes)
    note = f"Means with 95 % bootstrap intervals over cases; {note}"
    note += missing_note(table.cells.values(), "Hollow: some runs are missing.")
    return draw_curve(definition, table, labels, note, table.metric.name, sizes)


def draw_boxes(
    definition: FigureDefinition, table: Table, labels: Labels, note: str, sizes: Mapping[Axis, float]
) -> Figure:
    """Box plots of all cases and folds, means as yellow triangles, whiskers of 1.5 IQR (paper, figures 4 to 7)."""
    boxes = len(table.rows) * len(table.columns)
    page = PAGE if boxes > 9 else COLUMN
    figure = new_figure(page, 2.7)
    axes = figure.subplots()
    set_title(axes, definition.title, page)
    set_ticks(axes, range(len(table.rows)), tick_labels(table.rows, labels, sizes), page - 0.6)
    axes.set_xlim(-0.5, len(table.rows) - 0.5)
    axes.set_xlabel(labels.x_axis)
    axes.set_ylabel(table.metric.name)
    set_scale(axes)
    width = min(0.8 / len(table.columns), WIDEST * len(table.rows) / (page - 0.6))
    palette, places = colours(table.columns), ranks(table.columns)
    for position, row in enumerate(table.rows):
        for index, column in enumerate(table.columns):
            cell = table.cells.get((definition.set, row, column))
            x = position + (index - (len(table.columns) - 1) / 2) * width
            if cell is not None and cell.values:
                _box(axes, x, 0.8 * width, list(cell.values.values()), palette[column], places[column])
            if cell is not None and cell.present < cell.expected:
                _share(axes, x, f"{cell.present}/{cell.expected}")
    _limits(axes, table)
    note = f"Boxes: {note} Whiskers: 1.5 IQR."
    note += missing_note(table.cells.values(), "k/m: k of m runs have results.")
    finish(figure, _handles(labels, table), note)
    return figure


def _limits(axes: Axes, table: Table) -> None:
    """A share ends at 1 and begins on a twentieth below the data; marks of missing runs have room below the boxes."""
    if table.metric.highest != 1:
        axes.margins(y=0.12)
        return
    lowest = min(value for cell in table.cells.values() for value in cell.values.values())
    missing = any(cell.present < cell.expected for cell in table.cells.values())
    floor = max(0.0, math.floor(20 * (lowest - 0.01)) / 20)
    axes.set_ylim(floor - (0.07 * (1 - floor) if missing else 0), 1.0)


def _share(axes: Axes, x: float, text: str) -> None:
    axes.text(x, 0.01, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=SMALL)


def _handles(labels: Labels, table: Table) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    palette, places = colours(table.columns), ranks(table.columns)
    handles: list[Any] = [
        Patch(facecolor=_pale(palette[c]), edgecolor=palette[c], hatch=_hatch(places[c]), lw=0.8, label=text)
        for c, text in legend_hues(labels, table.columns)
    ]
    if handles and labels.hue_axis:
        handles.insert(0, Line2D([], [], ls="", label=f"{labels.hue_axis}:"))
    mean = Line2D([], [], linestyle="", marker="^", ms=4, mfc=YELLOW, mec="black", mew=0.4, label="mean")
    return [*handles, mean]


def _box(axes: Axes, x: float, width: float, values: list[float], colour: str, place: int) -> None:
    line = {"color": colour, "linewidth": 0.8}
    axes.boxplot(
        values,
        positions=[x],
        widths=width,
        whis=1.5,
        showmeans=True,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": _pale(colour), "edgecolor": colour, "linewidth": 0.8, "hatch": _hatch(place)},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": "black", "linewidth": 1.0, "solid_capstyle": "butt"},
        meanprops={
            "marker": "^",
            "markersize": 4,
            "markerfacecolor": YELLOW,
            "markeredgecolor": "black",
            "markeredgewidth": 0.4,
        },
        flierprops={"marker": "o", "markersize": 1.6, "markerfacecolor": colour, "markeredgecolor": "none"},
    )


def _hatch(place: int) -> str:
    return HATCHES[place % len(HATCHES)]


def _pale(colour: str) -> tuple[float, float, float]:
    """The colour as a filling: half way to white."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return (1 + red) / 2, (1 + green) / 2, (1 + blue) / 2
