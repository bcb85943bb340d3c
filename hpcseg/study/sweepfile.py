"""Sweep files: what a study consists of, and how its runs are laid out in tables and figures.

    [sweep]     its name and title
    [run]       keys of every run
    [[grid]]    keys over [run]; lists are axes (see hpcseg.study.keys), a block is their product; blocks add up
    [[table]]   which axis of which grid is what (hpcseg.study.tables)
    [[figure]]  likewise

`--set key=value` replaces a key everywhere: in [run], and the value or list of every block that has it; `--grid` leaves
some blocks of the file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hpcseg.errors import BadInput
from hpcseg.sections import Section, flatten, toml_text
from hpcseg.study.keys import is_axis, is_either, parse_setting, run_keys
from hpcseg.study.shipped import find_sweep
from hpcseg.study.tables import (
    CHOICE,
    CLASS,
    GRID,
    FigureDefinition,
    GridHeading,
    Heading,
    TableDefinition,
    clashing_file,
)
from hpcseg.study.tomlfile import TomlFile, explain, read_toml
from hpcseg.text import nearest

TABLES = ("sweep", "run", "grid", "table", "figure")
PROFILE_TABLES = ("local", "slurm")


SectionT = TypeVar("SectionT", bound=Section)
DefinitionT = TypeVar("DefinitionT", TableDefinition, FigureDefinition)


@dataclass(frozen=True)
class Grid:
    """`[[grid]]`: `axes` maps each key of the block to its values; a key with one value is an axis, too.

    `number` is its place among the file's.
    """

    name: str
    axes: dict[str, list[Any]]
    number: int


@dataclass(frozen=True)
class Sweep:
    """A sweep file with its overrides applied, or some grids of it; `run` and the axes have dotted keys."""

    source: TomlFile
    heading: Heading
    run: dict[str, Any]
    grids: tuple[Grid, ...]
    tables: tuple[TableDefinition, ...]
    figures: tuple[FigureDefinition, ...]
    overrides: dict[str, str]  # key -> as given
    chosen: tuple[str, ...] = ()  # grids that were asked for; (): all

    @property
    def name(self) -> str:
        """Name of the sweep, and of its folder."""
        return self.heading.name


def read_sweep(path: Path, overrides: Sequence[str] = (), grids: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, or the one of that name that comes with hpcseg, and apply overrides (`key=value`).

    With `grids`, it is as if the file had only these, and tables and figures of them.

    Raises:
        BadInput: with the file, the line, the key and what is allowed; or there is no such grid.
    """
    source = read_toml(find_sweep(path))
    for name in source.data:
        if name not in TABLES:
            raise BadInput(f"{source.where(name, 0, '')}: {_misplaced(name)}")
    run = _read_run(source)
    blocks = _read_grids(source)
    heading = _model(source, "sweep", 0, Heading, {"name": source.path.stem} | _table(source, "sweep"))
    tables = _definitions(source, "table", TableDefinition, run, blocks)
    figures = _definitions(source, "figure", FigureDefinition, run, blocks)
    sweep = Sweep(source, heading, run, tuple(blocks), tables, figures, {})
    if grids:
        sweep = _choose(sweep, tuple(dict.fromkeys(grids)))
    for override in overrides:
        sweep = _override(sweep, override)
    if grids or overrides:
        tables = tuple(_with_baseline(table, sweep.run, _among(sweep.grids, table.grid)) for table in sweep.tables)
        sweep = replace(sweep, tables=tables)
    return sweep


def _choose(sweep: Sweep, names: tuple[str, ...]) -> Sweep:
    """The same with these grids alone."""
    there = [grid.name for grid in sweep.grids]
    if unknown := next((name for name in names if name not in there), None):
        raise BadInput(f"--grid {unknown}: {sweep.source.path} has no such grid; it has: {', '.join(there)}")
    grids = tuple(grid for grid in sweep.grids if grid.name in names)
    tables, figures = _of_grids(sweep.tables, names), _of_grids(sweep.figures, names)
    return replace(sweep, grids=grids, tables=tables, figures=figures, chosen=names)


def _of_grids(definitions: Sequence[DefinitionT], names: Sequence[str]) -> tuple[DefinitionT, ...]:
    """What tables or figures show of some grids; those of other grids are left out."""
    shown = (
        (one, None if one.grid is None else tuple(name for name in one.grid if name in names)) for one in definitions
    )
    return tuple(one.model_copy(update={"grid": grid}) for one, grid in shown if grid != ())


def _with_baseline(table: TableDefinition, run: Mapping[str, Any], grids: Sequence[Grid]) -> TableDefinition:
    """The table, without the comparison with a column that no grid has."""
    return table if _has_baseline(table, run, grids) else table.model_copy(update={"baseline": "none"})


def _has_baseline(table: TableDefinition, run: Mapping[str, Any], grids: Sequence[Grid]) -> bool:
    """Whether the column that the table compares with, if it names one, may be among its columns."""
    if table.baseline in {None, "none"} or table.columns in {CLASS, CHOICE}:
        return True
    if table.columns == GRID:
        return table.baseline in [grid.name for grid in grids]
    values = [value for grid in grids for value in grid.axes.get(table.columns, [run.get(table.columns)])]
    return table.baseline in values or None in values  # None: the key's default


def _among(grids: Sequence[Grid], chosen: Sequence[str] | None) -> list[Grid]:
    """Those of these names; None: all."""
    return [grid for grid in grids if chosen is None or grid.name in chosen]


def _misplaced(name: str) -> str:
    """What is wrong with a table or key at the top of a file, and where it belongs."""
    if name in run_keys():
        return f"'{name}' stands in no table; write it below [run], or in a [[grid]]"
    if any(key.startswith(f"{name}.") for key in run_keys()):
        return f"'{name}' is part of a run; write [run.{name}], or {name}.KEY = VALUE below [run]"
    if name in PROFILE_TABLES:
        return f"'{name}' belongs in a job profile, a file of its own: --jobs FILE"
    return f"unknown table '{name}'{nearest(name, TABLES)} (hpcseg keys)"


def _override(sweep: Sweep, override: str) -> Sweep:
    key, value = parse_setting(override)
    if is_either(key, value) and not any(key in grid.axes for grid in sweep.grids):
        one, several = toml_text([value]), toml_text([[one] for one in value])
        why = "one value as in [run], or several as in [[grid]]?"
        raise BadInput(f"{override}: {why} Write '{key}={one}' for one, '{key}={several}' for {len(value)}")
    given = sweep.overrides | {key: override}
    run = {name: old for name, old in sweep.run.items() if name != key}
    if is_axis(key, value):
        if not value:
            raise BadInput(f"{override}: the list is empty; write {key}=VALUE or '{key}=[ONE, TWO]'")
        grids = [replace(grid, axes=grid.axes | {key: value}) for grid in sweep.grids]
        return replace(sweep, run=run, grids=tuple(grids), overrides=given)
    grids = [replace(grid, axes=grid.axes | ({key: [value]} if key in grid.axes else {})) for grid in sweep.grids]
    return replace(sweep, run=run | {key: value}, grids=tuple(grids), overrides=given)


def _read_run(source: TomlFile) -> dict[str, Any]:
    run = flatten(_table(source, "run"))
    for key, value in run.items():
        where = source.where("run", 0, key)
        _check_key(key, where, "[run]")
        if isinstance(value, list) and not run_keys()[key]:
            raise BadInput(
                f"{where}: {key} = {value!r}: [run] takes one value; lists belong in [[grid]] (hpcseg keys {key})"
            )
    return run


def _read_grids(source: TomlFile) -> list[Grid]:
    grids = []
    for index, block in enumerate(_blocks(source, "grid") or [{}]):
        given = {key: value for key, value in block.items() if key in GridHeading.model_fields}
        name = _model(source, "grid", index, GridHeading, given).name or f"grid{index + 1}"
        axes = {}
        for key, value in flatten({key: value for key, value in block.items() if key not in given}).items():
            where = source.where("grid", index, key)
            _check_key(key, where, "[[grid]]")
            if value == [] and not run_keys()[key]:
                raise BadInput(f"{where}: {key} = []: the list is empty")
            axes[key] = value if is_axis(key, value) else [value]
        grids.append(Grid(name, axes, index))
    _check_names(source, "grid", [grid.name for grid in grids])
    return grids


def _check_key(key: str, where: str, table: str) -> None:
    if key not in run_keys():
        raise BadInput(f"{where}: unknown key '{key}' in {table}{nearest(key, run_keys())} (hpcseg keys)")


def _check_names(source: TomlFile, table: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise BadInput(f"{source.where(table, index, 'name')}: name = {name!r}: another [[{table}]] has this name")


def _definitions(
    source: TomlFile, kind: str, model: type[DefinitionT], run: Mapping[str, Any], grids: list[Grid]
) -> tuple[DefinitionT, ...]:
    """The tables or figures of the file, which name grids and axes that there are."""
    found = tuple(_model(source, kind, n, model, value) for n, value in enumerate(_blocks(source, kind)))
    names = [definition.name for definition in found]
    _check_names(source, kind, names)
    for n in range(len(names) if kind == "table" else 0):
        if file := clashing_file(names[: n + 1]):
            raise BadInput(
                f"{source.where(kind, n, 'name')}: name = {names[n]!r}: "
                f"what else is collected has a file {file}, too; rename it"
            )
    for n, definition in enumerate(found):
        where = functools.partial(source.where, kind, n)
        shown = _shown(where, grids, definition.grid)
        given = {role: axes for role, axes in definition.roles.items() if role in definition.model_fields_set}
        _check_axes(where, run, shown, given)
        _check_classes(where, definition)
        if isinstance(definition, TableDefinition):
            _check_roles(where, run, shown, definition)
    return found


def _shown(where: Callable[[str], str], grids: list[Grid], chosen: Sequence[str] | None) -> list[Grid]:
    """The grids that a table or figure shows."""
    names = [grid.name for grid in grids]
    for name in chosen or ():
        if name not in names:
            raise BadInput(f"{where('grid')}: grid = {name!r}: there is no such [[grid]]{nearest(name, names)}")
    return _among(grids, chosen)


def _check_axes(
    where: Callable[[str], str], run: Mapping[str, Any], grids: list[Grid], roles: Mapping[str, Sequence[str]]
) -> None:
    """Every key with a role in a table or figure must be set in each grid that it shows, or in [run]."""
    for grid in grids:
        there = {CLASS, GRID, CHOICE, *grid.axes, *run}
        for role, axis in ((role, axis) for role, axes in roles.items() for axis in axes):
            if axis not in there:
                message = f"{role} = {axis!r}: grid '{grid.name}' has no such axis{nearest(axis, there)}"
                raise BadInput(f"{where(role)}: {message}")


def _check_classes(where: Callable[[str], str], definition: TableDefinition | FigureDefinition) -> None:
    """Classes are no replicates, and what is drawn of whole runs does not tell them apart."""
    kind = definition.kind if isinstance(definition, FigureDefinition) else ""
    for role, axes in definition.roles.items():
        if CLASS in axes and (kind not in {"", "box", "curve"} or role == "over"):
            what = f"a figure of kind {kind!r}" if kind else "a table"
            raise BadInput(f"{where(role)}: {role} = {CLASS!r}: {what} has no such axis; a run has all classes")


def _check_roles(
    where: Callable[[str], str], run: Mapping[str, Any], grids: list[Grid], table: TableDefinition
) -> None:
    """An axis with several values and no role would be averaged over silently; what is compared with is there."""
    if not _has_baseline(table, run, grids):
        what = "[[grid]]" if table.columns == GRID else f"column of {table.columns!r}"
        near = nearest(str(table.baseline), [grid.name for grid in grids]) if table.columns == GRID else ""
        raise BadInput(f"{where('baseline')}: baseline = {table.baseline!r}: the table shows no such {what}{near}")
    named = {axis for axes in table.roles.values() for axis in axes}
    for grid in () if CHOICE in named else grids:
        for axis, values in grid.axes.items():
            if axis not in named and len(values) > 1:
                raise BadInput(
                    f"{where('name')}: table '{table.name}' gives no role to the axis '{axis}' "
                    f"of grid '{grid.name}'; make it rows, columns or one of over"
                )


def _table(source: TomlFile, name: str) -> dict[str, Any]:
    value = source.data.get(name, {})
    if not isinstance(value, dict):
        raise BadInput(f"{source.where(name, 0, '')}: '{name}' is one table; write [{name}]")
    return value


def _blocks(source: TomlFile, name: str) -> list[dict[str, Any]]:
    value = source.data.get(name, [])
    if not isinstance(value, list) or not all(isinstance(block, dict) for block in value):
        raise BadInput(f"{source.where(name, 0, '')}: there may be several of '{name}'; write [[{name}]]")
    return value


def _model(source: TomlFile, table: str, index: int, model: type[SectionT], value: dict[str, Any]) -> SectionT:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        key, message = explain(error, model.model_fields)
        where = source.where(table, index, key)
        title = f"[{table}]" if table == "sweep" else f"[[{table}]]"
        raise BadInput(f"{where}: {message} ({title})") from None
