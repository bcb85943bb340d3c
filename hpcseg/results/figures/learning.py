"""Learning curves: losses by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hpcseg.files import leave_out
from hpcseg.paths import HISTORY_FILE
from hpcseg.results.collection import Collection
from hpcseg.results.figures import style
from hpcseg.results.figures.legends import labels_of, runs_note
from hpcseg.results.figures.scores import line_handles
from hpcseg.results.tables.axes import sort_axis
from hpcseg.results.tables.tables import select_runs
from hpcseg.seals import json_lines
from hpcseg.study.tables import FigureDefinition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = {"training": "-", "validation": ":"}  # line styles


def draw_learning(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """Loss by epoch, or why there is none: a panel per x, a colour and marker per hue; validation is dotted.

    A line is the mean over the runs that reached the epoch.
    """
    histories = {
        key: [read_history(run.folder / HISTORY_FILE) for _, run in found]
        for key, found in select_runs(definition.as_table(), collection).items()
    }
    counts = [sum(map(bool, found)) for found in histories.values() if any(found)]
    if not counts:
        return "no run has a history yet"
    labels = labels_of(definition, collection)
    rows, columns = sort_axis(row for row, _ in histories), sort_axis(column for _, column in histories)
    look = style.looks(columns)
    across = min(4, len(rows))
    down = math.ceil(len(rows) / across)
    width = style.COLUMN if across == 1 else style.PAGE
    figure = style.new_figure(width, 0.55 + 1.5 * down + (0.5 if down == 1 else 0))
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for number, (row, axes) in enumerate(zip(rows, panels, strict=False)):
        style.set_title(axes, style.lettered(number, len(rows), labels.panel(row)), (width - 0.4) / across)
        _loss_axes(axes)
        for column in columns:
            _losses(axes, histories.get((row, column), []), look[column])
    for axes in panels[::across]:
        axes.set_ylabel("Loss")
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    handles = line_handles(labels, columns, solid=True) + _loss_handles()
    style.finish(figure, handles, f"Lines: {runs_note(definition, counts, collection)}")
    return figure


def read_history(path: Path) -> list[dict[str, Any]]:
    """Lines of history.jsonl, [] where there is none; one that is damaged is left out with a note."""
    lines = json_lines(path)
    kinds = {"epoch": int} | {f"{name}_loss": int | float | None for name in LOSSES}
    sound = [line for line in lines if all(isinstance(line.get(key), kind) for key, kind in kinds.items())]
    if len(sound) < len(lines):
        leave_out(f"{path}: a line is no epoch")
    return [*{line["epoch"]: line for line in sound}.values()]  # one that stands twice counts once


def _loss_axes(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.set_scale(axes)
    axes.set_xlabel("Epoch")


def _losses(axes: Axes, histories: Sequence[Sequence[dict[str, Any]]], look: style.Look) -> None:
    for key, line_style in LOSSES.items():
        by_epoch: dict[int, list[float]] = {}
        for line in (line for history in histories for line in history):
            if line.get(f"{key}_loss") is not None:
                by_epoch.setdefault(line["epoch"], []).append(line[f"{key}_loss"])
        epochs = sorted(by_epoch)
        means = [fmean(by_epoch[epoch]) for epoch in epochs]
        marks: Any = {"marker": look.marker, "ms": 2.4, "markevery": max(1, len(epochs) // 6)}
        axes.plot(epochs, means, line_style, color=look.colour, lw=0.8, **(marks if key == "training" else {}))


def _loss_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=style.GREY, lw=0.9, ls=line, label=text) for text, line in LOSSES.items()]
