"""Axes of a table: where each run stands on them, in which order their values come, and how they are printed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hpcseg.errors import BadInput
from hpcseg.results.collection import Collection, Place, Run
from hpcseg.study.tables import CHOICE, GRID, Axis, TableDefinition
from hpcseg.training.strategy import strategies

LABELS = {"labelled": "n", "strategy": "Strategy", GRID: "Experiment", CHOICE: "Choice"}


def places(definition: TableDefinition, collection: Collection) -> list[tuple[Run, Place]]:
    """Every place of the definition's grids, in the sweep file's order.

    Where the definition names "grid" or "choice", both are among the axes.

    Raises:
        BadInput: the sweep has no such grid.
    """
    grids = dict.fromkeys(place.grid for run in collection.runs for place in run.places)
    for grid in definition.grid or ():
        if grid not in grids:
            raise BadInput(
                f"sweep {collection.sweep}: {definition.name!r} asks for grid {grid!r}; "
                f"there are {', '.join(map(repr, grids)) or 'none'}"
            )
    wanted = definition.grid or tuple(grids)
    found = [(run, place) for run in collection.runs for place in run.places if place.grid in wanted]
    found.sort(key=lambda one: one[1].number)
    named = {axis for axes in definition.roles.values() for axis in axes}
    if not {GRID, CHOICE} & named:
        return found
    choices: dict[str, dict[str, int]] = {}
    chosen = []
    for run, place in found:
        numbers = choices.setdefault(place.grid, {})
        free = repr([(axis, value) for axis, value in place.axes.items() if axis not in named])
        own = {GRID: place.grid, CHOICE: numbers.setdefault(free, len(numbers) + 1)}
        chosen.append((run, place.model_copy(update={"axes": place.axes | own})))
    return chosen


def free_axes(definition: TableDefinition, shown: Iterable[Place]) -> dict[str, tuple[str, ...]]:
    """Of each grid the axes that have several values in it and no role in the definition; a choice is all of them."""
    named = {GRID, CHOICE, *(axis for axes in definition.roles.values() for axis in axes)}
    has_choice = any(CHOICE in axes for axes in definition.roles.values())
    values: dict[str, dict[str, set[str]]] = {}
    for place in shown:
        of_grid = values.setdefault(place.grid, {})
        for axis in () if has_choice else place.axes.keys() - named:
            of_grid.setdefault(axis, set()).add(repr(place.axes[axis]))
    return {grid: tuple(sorted(a for a, found in axes.items() if len(found) > 1)) for grid, axes in values.items()}


def axis_value(definition: TableDefinition, run: Run, place: Place, key: str) -> Axis:
    """Value of the axis `key` at a place.

    Raises:
        BadInput: neither the grid nor the run's configuration has it.
    """
    value = run.axis(place, key)
    if value is None:
        raise BadInput(
            f"{definition.name!r} asks for axis {key!r}, which run {run.id} does not have; "
            f"its axes are {', '.join(dict.fromkeys([*place.axes, GRID, CHOICE]))}"
        )
    return value


def sort_axis(values: Iterable[Axis]) -> tuple[Axis, ...]:
    """Distinct values as a table orders them: numbers by size, then "all"; strategies as the paper; others as met.

    Where only some are names of strategies, as among the names of grids, all stand as met.

    >>> sort_axis(["masked", "baseline", "all", 4, 2]), sort_axis(["plain", "masked", "baseline"])
    ((2, 4, 'baseline', 'masked', 'all'), ('plain', 'masked', 'baseline'))
    """
    distinct, ranks = list(dict.fromkeys(values)), strategies()
    order: list[Axis] = [value for value in distinct if not isinstance(value, int | float) and value != "all"]
    if all(word in ranks for word in order):
        order = [*ranks]

    def place(value: Axis) -> tuple[int, float]:  # no float of it: an integer may have thousands of digits
        if isinstance(value, int | float):
            return 0, value
        return (2, 0) if value == "all" else (1, order.index(value))

    return tuple(sorted(distinct, key=place))


def label(value: Axis) -> str:
    """An axis' name or value as it is printed."""
    if isinstance(value, tuple):
        return ", ".join(map(label, value))
    if not isinstance(value, str):
        return str(value)
    strategy = strategies().get(value)
    return LABELS.get(value, value) if strategy is None else strategy.label


def as_toml(value: Axis) -> str:
    """A value as the key of `row_labels` and `column_labels`: true, 16, "all", "16, 24, 32"."""
    if isinstance(value, tuple):
        return ", ".join(map(as_toml, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
