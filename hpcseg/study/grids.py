"""From a sweep to the configuration of every cell of its grids. Pure.

Cells share their sections: each combination of values that a grid gives to one section is read and checked once, and
cells that have it hold the same object. What comes after asks only whether a section is the one it knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hpcseg.config import RunConfig, sections
from hpcseg.errors import BadInput
from hpcseg.study.keys import explained, nest, run_keys
from hpcseg.study.sweepfile import Grid, Sweep
from hpcseg.study.tomlfile import explain


@dataclass(frozen=True)
class Cell:
    """One point of a grid: its place on the grid's axes, and the run that belongs there."""

    grid: str
    axes: dict[str, Any]
    config: RunConfig


def expand(sweep: Sweep) -> list[Cell]:
    """Every point of every grid, in the file's order.

    Raises:
        BadInput: a value is not allowed; the message names file, line and key.
    """
    cells = []
    for grid in sweep.grids:
        try:
            cells += [Cell(grid.name, axes, config) for axes, config in _configs(sweep.run, grid.axes)]
        except ValidationError as error:
            key, message = explain(error, run_keys())
            raise BadInput(f"{_origin(sweep, grid, key, message)}: {message}{explained(key)}") from None
    return cells


def _configs(run: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[dict[str, Any], RunConfig]]:
    """The product of `axes` over `run`, and the configuration at each of its points."""
    base = nest(dict(run))
    of_section: dict[str, list[tuple[int, str, str]]] = {}  # place among the axes, key, name within the section
    for place, key in enumerate(axes):
        section, _, name = key.rpartition(".")
        of_section.setdefault(section, []).append((place, key, name))
    given = {*RunConfig.model_fields, *base, *of_section}  # a strategy's section only where something is set in it
    kinds = {name: kind for name, kind in sections().items() if name in given}
    plain = {key: value for key, value in base.items() if key not in kinds}
    known: dict[tuple[str, tuple[int, ...]], Any] = {}
    for choice in itertools.product(*(range(len(values)) for values in axes.values())):
        point = {key: values[number] for (key, values), number in zip(axes.items(), choice, strict=True)}
        try:
            made = plain | {name: point[key] for _, key, name in of_section.get("", ())}
            for section, kind in kinds.items():
                own = of_section.get(section, ())
                chosen = (section, tuple([choice[place] for place, _, _ in own]) if own else ())
                if chosen not in known:
                    values = base.get(section, {}) | {name: point[key] for _, key, name in own}
                    known[chosen] = kind.model_validate(values)
                made[section] = known[chosen]
            config = RunConfig.model_validate(made)
        except ValidationError:
            config = RunConfig.model_validate(nest({**run, **point}))  # all at once: the error then names the whole key
        yield point, config


def _origin(sweep: Sweep, grid: Grid, key: str, message: str) -> str:
    """Where a wrong value comes from: an override, a line of the grid, or a line of [run]."""
    if not key:  # a rule about several keys: its message begins with the one to blame
        first = message.split(" ", 1)[0].rstrip(":")
        key = first if first in run_keys() else ""
    if key in sweep.overrides:
        return sweep.overrides[key]
    source = sweep.source
    in_grid = any(axis == key or axis.startswith(f"{key}.") for axis in grid.axes) and key
    return source.where("grid", grid.number, key) if in_grid else source.where("run", 0, key)
