"""Learning curves: losses, the Dice of validation patches and the DSC of whole scans by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hpcseg.paths import HISTORY_FILE
from hpcseg.results.collection import Collection
from hpcseg.results.figures import style
from hpcseg.results.figures.legends import labels_of, runs_note
from hpcseg.results.figures.scores import line_handles
from hpcseg.results.tables.axes import sort_axis
from hpcseg.results.tables.tables import select_runs
from hpcseg.study.tables import FigureDefinition
from hpcseg.training.history import read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {"training": "-", "validation": ":"}
Histories = Sequence[Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class _Measure:
    """What is drawn of an epoch: a key for each kind of line, and of which height in inches its panels are."""

    title: str
    keys: Mapping[str, str]
    height: float
    log: bool = False

    def values(self, histories: Mapping[Any, Histories]) -> list[float]:
        """All that there is of it."""
        lines = (line for found in histories.values() for history in found for line in history)
        return [value for line in lines for key in self.keys.values() if (value := _number(line.get(key))) is not None]

    def plot(self, axes: Axes, histories: Histories, look: style.Look) -> None:
        """The lines of one hue."""
        for kind, key in self.keys.items():
            by_epoch: dict[int, list[float]] = {}
            for line in (line for history in histories for line in history):
                if (value := _number(line.get(key))) is not None:
                    by_epoch.setdefault(line["epoch"], []).append(value)
            epochs = sorted(by_epoch)
            means = [fmean(by_epoch[epoch]) for epoch in epochs]
            marked = kind == "training" or len(self.keys) == 1
            marks: Any = {"marker": look.marker, "ms": 2.4, "markevery": max(1, len(epochs) // 6)} if marked else {}
            axes.plot(epochs, means, LINES[kind], color=look.colour, lw=0.8, **marks)


_LOSS = _Measure("Loss", {kind: f"{kind}_loss" for kind in LINES}, 1.5, log=True)
_DICE = _Measure("Dice of patches", {"validation": "validation_dice"}, 1.1)
_DSC = _Measure("DSC of whole scans", {"validation": "validation_dsc"}, 1.1)


def draw_learning(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """Loss by epoch on a logarithmic axis, below it the Dice of validation patches; or why there is none.

    A panel per x, a colour and marker per hue; validation is dotted. A line is the mean over the runs that reached the
    epoch.
    """
    histories = {
        key: [read_history(run.folder / HISTORY_FILE) for _, run in found]
        for key, found in select_runs(definition.as_table(), collection).items()
    }
    counts = [sum(map(bool, found)) for found in histories.values() if any(found)]
    if not counts:
        return "no run has a history yet"
    labels = labels_of(definition, collection)
    known = sort_axis(column for _, column in histories)
    rows, columns = (sort_axis(key[at] for key, found in histories.items() if any(found)) for at in (0, 1))
    measures = [measure for measure in (_LOSS, _DICE, _DSC) if measure.values(histories)]
    across = min(4, len(rows))
    down = math.ceil(len(rows) / across)
    width = style.COLUMN if across == 1 else style.PAGE
    each = sum(measure.height for measure in measures) + (0.5 if down == len(measures) == 1 else 0)
    figure = style.new_figure(width, 0.55 + each * down)
    heights = [measure.height for _ in range(down) for measure in measures]
    grid = figure.subplots(len(heights), across, squeeze=False, gridspec_kw={"height_ratios": heights})
    looks = style.looks(known)
    for kind, measure in enumerate(measures):
        panels = grid[kind :: len(measures)].ravel()
        for number, (row, axes) in enumerate(zip(rows, panels, strict=False)):
            if kind == 0:
                style.set_title(axes, style.lettered(number, len(rows), labels.panel(row)), (width - 0.4) / across)
            for column in columns:
                measure.plot(axes, histories.get((row, column), []), looks[column])
            if number:
                axes.sharey(panels[0])
            if kind:
                axes.sharex(grid[:: len(measures)].ravel()[number])  # one axis of epochs for all that stand on it
            _dress(axes, measure, first=number % across == 0, last=measure is measures[-1])
        for axes in panels[len(rows) :]:
            axes.set_visible(False)
    handles = line_handles(labels, columns, known, solid=True) + _line_handles()
    style.finish(figure, handles, f"Lines: {runs_note(definition, counts, collection)}")
    return figure


def _number(value: Any) -> float | None:
    """A value of a history; of several classes the mean of those that have one."""
    values = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int | float)]
    return fmean(values) if values else None


def _dress(axes: Axes, measure: _Measure, *, first: bool, last: bool) -> None:
    """Scales and titles of a panel; `first`: of its line of panels, `last`: of the measures, one below the other."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.set_scale(axes, log=measure.log)
    axes.tick_params(labelleft=first, labelbottom=last)
    if not measure.log:
        axes.set_ylim(0, 1)
    if first:
        axes.set_ylabel(measure.title)
    if last:
        axes.set_xlabel("Epoch")


def _line_handles() -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=style.GREY, lw=0.9, ls=line, label=text) for text, line in LINES.items()]
