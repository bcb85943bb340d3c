"""Other collections beside ours: what the paper publishes, a file in the same form, or what `collect` wrote earlier."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hpcseg.errors import BadInput
from hpcseg.files import read_json
from hpcseg.results.collection import Collection
from hpcseg.results.scores import Record
from hpcseg.results.tables.axes import as_toml
from hpcseg.results.tables.cells import Beside, Key
from hpcseg.results.tables.tables import Table
from hpcseg.text import in_words

PAPER = "paper"
Pair = tuple[float, float | None]  # mean, SD
Names = tuple[str, str, str]  # set, row, column, as TOML writes them


class _Grid(Record):
    """A table as a file has it: for each set a line for every row, with a pair for every column."""

    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    metric: str = "dsc"
    sets: dict[str, tuple[tuple[Pair | None, ...], ...]]

    def cells(self) -> dict[Names, Pair]:
        """The pairs that there are.

        Raises:
            ValueError: a set has not a line for every row and a pair for every column.
        """
        rows, columns = (tuple(map(_name, values)) for values in (self.rows, self.columns))
        return {
            (name, row, column): pair
            for name, lines in self.sets.items()
            for row, line in zip(rows, lines, strict=True)
            for column, pair in zip(columns, line, strict=True)
            if pair is not None
        }


class _File(Record):
    label: str
    dataset: str = ""
    aliases: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, _Grid]


class PublishedTable(Record):
    """Means and SDs of one table, by set, row and column as TOML writes them."""

    metric: str
    cells: dict[Names, Pair]


class Publication(Record):
    """Tables to stand beside ours.

    Attributes:
        label: whose they are, in words.
        dataset: that they are of; "" where nobody says.
        aliases: a value of our axes -> the one of theirs that it stands for.
    """

    label: str
    dataset: str = ""
    aliases: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, PublishedTable]


def read_publication(against: str) -> Publication:
    """What `--against` names: "paper", a TOML file in the form of `published.toml`, or a folder that collect wrote.

    Raises:
        BadInput: there is no such thing, or it cannot be read.
    """
    path = Path(against)
    if against == PAPER and not path.exists():
        own = files("hpcseg.results.tables") / "published.toml"
        return _from_toml(own.read_text(encoding="utf-8"), own.name)
    if path.is_dir():
        return _from_folder(path)
    try:
        return _from_toml(path.read_text(encoding="utf-8"), against)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--against {against}: {getattr(error, 'strerror', None) or error}; "
            "name 'paper', a TOML file or a folder that collect wrote"
        ) from None


def set_beside(table: Table, publication: Publication, datasets: Iterable[str], original: str = "") -> Table:
    """The table with the published one of its name, or of its key `published`, beside it; a note says if there is none.

    Args:
        datasets: that our results are of.
        original: name of the table of which this is a copy, of another metric.
    """
    own = table.definition.name
    name = table.definition.published or original or own
    if original not in ("", own) and own in publication.tables:
        name = own
    found = publication.tables.get(name)
    label = publication.label
    if found is None:
        return _noted(table, f"{label} has no table {name!r}")
    ours = sorted(set(datasets))
    foreign = bool(publication.dataset and ours) and ours != [publication.dataset]
    foreign_note = f"{label}'s {name} is of {publication.dataset}, ours of {', '.join(ours)}"
    if foreign and table.definition.published is None:
        return _noted(table, f"not compared: {foreign_note} (to compare all the same: published = {name!r})")
    if found.metric != table.metric.key:
        return _noted(table, f"not compared: {label}'s {name} is of {found.metric}, this is of {table.metric.key}")
    values = {}
    for key in table.cells:
        names = (key[0], *(publication.aliases.get(as_toml(value), as_toml(value)) for value in key[1:]))
        if names in found.cells:
            values[key] = found.cells[names]
    if not values:
        return _noted(table, f"not compared: no cell of {label}'s {name} has the rows and columns of this table")
    notes: tuple[str, ...] = (foreign_note,) if foreign else ()
    if len(values) < len(table.cells):
        notes += (f"{label} has {len(values)} of these {len(table.cells)} cells",)
    return replace(table, beside=Beside(label, name, values, _improved(table, values), notes))


def datasets_of(collection: Collection) -> set[str]:
    """Names of the labelled datasets of a collection's runs, where their configurations tell."""
    found = set()
    for run in collection.runs:
        data = run.config.get("data")
        if isinstance(data, Mapping) and data.get("dataset"):
            found.add(Path(str(data["dataset"])).name)
    return found


def _improved(table: Table, values: Mapping[Key, Pair]) -> tuple[int, int]:
    """How many of the published cells are better than that of our baseline's column, and how many can be compared."""
    better, compared = 0, 0
    for (name, row, column), (value, _) in values.items():
        if column == table.baseline or table.baseline is None or (name, row, table.baseline) not in values:
            continue
        size = table.metric.comparable
        better += table.metric.improves(size(value) - size(values[name, row, table.baseline][0]))
        compared += 1
    return better, compared


def _noted(table: Table, note: str) -> Table:
    return replace(table, notes=(*table.notes, note))


def _from_toml(text: str, where: str) -> Publication:
    try:
        found = _File.model_validate(tomllib.loads(text))
        tables = {name: PublishedTable(metric=grid.metric, cells=grid.cells()) for name, grid in found.tables.items()}
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"--against {where}: not valid TOML ({error})") from None
    except RecursionError as error:  # brackets in brackets
        raise BadInput(f"--against {where}: not valid TOML ({error})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise BadInput(f"--against {where}: {place}: {in_words(problem)}; it should be as published.toml") from None
    except ValueError as error:
        raise BadInput(f"--against {where}: a set has not one pair per row and column ({error})") from None
    return Publication(label=found.label, dataset=found.dataset, aliases=found.aliases, tables=tables)


def _from_folder(folder: Path) -> Publication:
    """The tables that `collect` left in a folder."""
    tables = {}
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if not isinstance(value, dict) or not {"table", "cells"} <= value.keys():
            continue
        try:
            definition = value["table"]
            keys = ("set", definition["rows"], definition["columns"])
            cells = {
                tuple(_name(cell[key]) for key in keys): (cell["mean"], cell["sd"])
                for cell in value["cells"]
                if cell["mean"] is not None
            }
            found = {"metric": definition.get("metric", "dsc"), "cells": cells}
            tables[path.stem] = PublishedTable.model_validate(found)
        except (KeyError, TypeError, ValidationError) as error:
            raise BadInput(f"--against {path}: not a table as collect writes it ({error!r})") from None
    if not tables:
        raise BadInput(f"--against {folder}: no tables there; name 'paper', a TOML file or a folder that collect wrote")
    return Publication(label=str(folder), tables=tables)


def _name(value: Any) -> str:
    return as_toml(tuple(value) if isinstance(value, list) else value)
