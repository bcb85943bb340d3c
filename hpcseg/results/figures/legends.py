"""What stands in words in a figure: labels as the sweep's tables have them, and notes on what is shown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcseg.results.collection import Collection, Run
from hpcseg.results.tables.axes import as_toml, label, places
from hpcseg.results.tables.tables import Table
from hpcseg.study.tables import CHOICE, GRID, Axis, FigureDefinition

if TYPE_CHECKING:
    from matplotlib.artist import Artist

MOST_SEEDS = 8  # named one by one


@dataclass(frozen=True)
class Labels:
    """How a figure writes the axes x and hue, and their values."""

    definition: FigureDefinition
    of_x: Mapping[str, str]  # value as TOML writes it -> as it is printed
    of_hue: Mapping[str, str]

    def x(self, value: Axis) -> str:
        """A value of x."""
        return self.of_x.get(as_toml(value), label(value))

    def hue(self, value: Axis) -> str:
        """A value of hue."""
        return self.of_hue.get(as_toml(value), label(value))

    @property
    def x_axis(self) -> str:
        """The title of the x axis; "" where its values speak for themselves."""
        key = self.definition.x
        if key in (GRID, CHOICE) and key not in self.of_x:
            return ""
        return "Labelled training volumes n" if key == "labelled" else self.x(key)

    @property
    def hue_axis(self) -> str:
        """What stands before the values of hue in a legend; "" where these speak for themselves."""
        key = self.definition.hue
        if key in (GRID, CHOICE, "strategy") or self.of_hue:
            return ""
        return self.hue(key)

    def panel(self, value: Axis) -> str:
        """The title of a panel of one value of x."""
        key = self.definition.x
        if key in (GRID, CHOICE, "strategy") or as_toml(value) in self.of_x:
            return self.x(value)
        return f"{self.x(key)} = {self.x(value)}"


def labels_of(definition: FigureDefinition, collection: Collection) -> Labels:
    """Labels for a figure, from the tables of the sweep that give the figure's axes a role in the same grids."""
    found: dict[str, dict[str, str]] = {}
    for table in collection.tables:
        if table.grid and definition.grid and not set(table.grid) & set(definition.grid):
            continue
        for key, given in ((table.rows, table.row_labels), (table.columns, table.column_labels)):
            found[key] = given | found.get(key, {})
    return Labels(definition, found.get(definition.x, {}), found.get(definition.hue, {}))


def hue_handles(labels: Labels, values: Sequence[Axis], handle: Callable[[Axis, str], Artist]) -> list[Artist]:
    """A legend of the values of hue, headed by the axis where they need it; none where there is nothing to tell apart.

    Args:
        handle: draws a value beside its label.
    """
    from matplotlib.lines import Line2D

    if len(values) < 2:
        return []
    head: list[Artist] = [Line2D([], [], ls="", label=f"{labels.hue_axis}:")] if labels.hue_axis else []
    return [*head, *(handle(value, labels.hue(value)) for value in values)]


def cells_note(definition: FigureDefinition, table: Table, collection: Collection) -> str:
    """How many scores of how many runs stand behind each cell of a figure, and with which seeds."""
    cells = [cell for cell in table.cells.values() if cell.values]
    scores, noun = _span(map(len, (cell.flat for cell in cells)), "score"), _replicate(definition, collection)
    return f"{scores} of {_span((cell.present for cell in cells), noun)} each; {seeds_note(definition, collection)}."


def runs_note(definition: FigureDefinition, counts: Iterable[int], collection: Collection) -> str:
    """Over how many runs something is a mean, and with which seeds."""
    return f"mean of {_span(counts, _replicate(definition, collection))}; {seeds_note(definition, collection)}."


def seeds_note(definition: FigureDefinition, collection: Collection) -> str:
    """The seeds of all runs of a figure."""
    return seeds_of(runs_of(definition, collection))


def seeds_of(runs: Iterable[Run]) -> str:
    """The seeds of some runs."""
    seeds = _seeds(runs)
    if len(seeds) > MOST_SEEDS:
        return f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def runs_of(definition: FigureDefinition, collection: Collection) -> list[Run]:
    """The runs of the figure's grids, in the sweep's order.

    Raises:
        BadInput: the sweep has no such grid.
    """
    return list({run.id: run for run, _ in places(definition.as_table(), collection)}.values())


def _seeds(runs: Iterable[Run]) -> list[int]:
    return sorted({int(run.config.get("seed", 0)) for run in runs})


def _replicate(definition: FigureDefinition, collection: Collection) -> str:
    """What a run of a cell is: a fold, where no two differ in the seed."""
    return "fold" if definition.over == ("fold",) and len(_seeds(runs_of(definition, collection))) == 1 else "run"


def _span(counts: Iterable[int], noun: str) -> str:
    """ "5 folds", "1 fold", "4-5 folds"."""
    found = sorted(counts)
    low, high = found[0], found[-1]
    return f"{low if low == high else f'{low}-{high}'} {noun}{'' if high == 1 else 's'}"
