"""Tables and figures as a sweep file defines them, and those of a sweep that defines none. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from hpcseg.inference.metrics import METRICS
from hpcseg.sections import Section
from hpcseg.study.tomlfile import nearest

Axis = str | int | float | bool | tuple[Any, ...]
SetName = Literal["validation", "test"]
SETS: tuple[SetName, ...] = get_args(SetName)
CLASS, GRID, CHOICE = "class", "grid", "choice"  # what may have a role beside the axes


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known_metric(key: str) -> str:
    if key not in METRICS:
        raise ValueError(f"metric = {key!r} is not allowed{nearest(key, METRICS)}")
    return key


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
MetricKey = Annotated[str, AfterValidator(_known_metric)]
FigureKind = Literal["box", "curve", "examples", "kernels", "learning", "reconstructions"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class TableDefinition(Section):
    """`[[table]]`: DSC, or another `metric`, of a grid's runs: a row per value of `rows`, a column per value of
    `columns` and set.

    `rows` and `columns` are axes, that is keys of the grid or of the run's configuration (dotted), "class" (otherwise a
    case with several classes counts once, with their mean), "grid" (one for each grid) or "choice" (one for each value
    of the axes that have no role, in the grid's order): `rows = "grid"`, `columns = "choice"` sets experiments that
    vary different keys below each other.
    """

    name: FileName
    title: str = ""
    grid: Names | None = None  # None: all
    rows: str = "labelled"
    columns: str = "strategy"
    over: Names = ("fold",)  # axes that are replicates
    sets: Annotated[tuple[SetName, ...], BeforeValidator(_as_list)] = SETS
    metric: MetricKey = "dsc"
    # Column that the others are compared with; None: "baseline", else the first; "none": no comparison.
    baseline: str | int | float | bool | None = None
    published: str | None = None  # table of another collection to stand beside (collect --against); None: of this name
    row_labels: dict[str, str] = Field(default_factory=dict)  # value as TOML writes it -> as it is printed
    column_labels: dict[str, str] = Field(default_factory=dict)

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each key that names some."""
        return {"rows": (self.rows,), "columns": (self.columns,), "over": self.over}


class FigureDefinition(Section):
    """`[[figure]]`: DSC, or another `metric`, of a grid's runs over the axis `x`, one colour per value of `hue`."""

    name: FileName
    title: str = ""
    grid: Names | None = None
    kind: FigureKind
    x: str = "labelled"
    hue: str = "strategy"
    over: Names = ("fold",)
    set: SetName = "test"
    metric: MetricKey = "dsc"

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each key that names some."""
        return {"x": (self.x,), "hue": (self.hue,), "over": self.over}

    def as_table(self) -> TableDefinition:
        """The table whose cells the figure shows: x as rows, hue as columns."""
        return TableDefinition(
            name=self.name,
            grid=self.grid,
            rows=self.x,
            columns=self.hue,
            over=self.over,
            sets=(self.set,),
            metric=self.metric,
        )


def default_tables(grids: Sequence[str], sets: tuple[SetName, ...]) -> tuple[TableDefinition, ...]:
    """A table of each grid."""
    title = "DSC by number of labelled volumes and strategy ({})"
    return tuple(
        TableDefinition(name=name, title=title.format(grid), grid=(grid,), sets=sets)
        for grid, name in _file_names(grids).items()
    )


def default_figures(grids: Sequence[str], sets: tuple[SetName, ...]) -> tuple[FigureDefinition, ...]:
    """For each grid box plots, curves and learning curves; examples of the last set."""
    kinds: tuple[tuple[FigureKind, str, tuple[SetName, ...]], ...] = (
        ("box", "DSC on the {} set", sets),
        ("curve", "DSC on the {} set with 95 % intervals", sets),
        ("examples", "A case of the {} set", sets[-1:]),
    )
    figures: list[FigureDefinition] = []
    for grid, name in _file_names(grids).items():
        figures += [
            FigureDefinition(
                name=f"{name}-{kind}-{shown}", title=title.format(shown), kind=kind, grid=(grid,), set=shown
            )
            for kind, title, chosen in kinds
            for shown in chosen
        ]
        figures.append(
            FigureDefinition(name=f"{name}-learning", title="Learning curves", kind="learning", grid=(grid,))
        )
    return tuple(figures)


def _file_names(grids: Sequence[str]) -> dict[str, str]:
    """Of each grid a name for its files, each another one."""
    names: dict[str, str] = {}
    for number, grid in enumerate(grids, start=1):
        name = re.sub(r"[^\w.-]+", "-", grid)
        plain = re.match("[A-Za-z0-9]", name) and name not in names.values()
        names[grid] = name if plain else f"grid{number}-{name}"
    return names
