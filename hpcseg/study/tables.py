"""What a sweep file says beside its runs: [sweep], [[table]], [[figure]], and those of a sweep that says none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from hpcseg.inference.metrics import METRICS
from hpcseg.sections import Section, key
from hpcseg.text import PLAIN_NAME, nearest

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


def _present_kind(kind: Any) -> Any:
    if kind == "kernels":
        raise ValueError("kind = 'kernels' is now called 'filters'")
    return kind


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
MetricKey = Annotated[str, AfterValidator(_known_metric)]
FigureKind = Annotated[
    Literal["box", "curve", "examples", "filters", "learning", "reconstructions"], BeforeValidator(_present_kind)
]
_FOUND = "ours: results are found and read by it"
_SEVERAL = "ours: a sweep may hold several experiments"
_METRIC = f"what is shown: {', '.join(METRICS)}"
_BEYOND_DSC = "paper 3.1.3; all but dsc are ours: overlap says little of borders"
FileName = Annotated[str, Field(pattern=PLAIN_NAME)]

TABLE_ENDINGS = (".txt", ".md", "-list.md", ".csv", "-runs.csv", "-summary.csv", ".json", ".tex")  # of a table's files
RUNS_LIST, SUMMARY = "runs.csv", "collection.json"  # files of a whole collection, beside them


def clashing_file(tables: Iterable[str]) -> str:
    """The first file that two tables of these names have, or one of them and the collection itself; "" if none.

    >>> clashing_file(["main", "main-runs"]), clashing_file(["collection"]), clashing_file(["main", "main2"])
    ('main-runs.csv', 'collection.json', '')
    """
    taken = {RUNS_LIST, SUMMARY}
    for file in (f"{name}{ending}" for name in tables for ending in TABLE_ENDINGS):
        if file in taken:
            return file
        taken.add(file)
    return ""


class Heading(Section):
    """The study as a whole; the table may be left out."""

    name: FileName = key("", "of the sweep; left out: the file's", source=_FOUND)
    title: str = key("", "what stands above its report", source=_FOUND)


class GridHeading(Section):
    """The product of its lists, over [run]. Any key of a run may stand in it; blocks add up, and equal runs merge."""

    name: str = key("", 'of the grid, for tables and figures; "": grid1, grid2, …', source=_SEVERAL)


class TableDefinition(Section):
    """DSC, or another metric, of a grid's runs: a row per value of `rows`, a column per value of `columns` and set.

    Unless "class" is an axis, a case with several classes counts once, with their mean. `rows = "grid"` with
    `columns = "choice"` sets experiments that vary different keys below each other.
    """

    name: FileName = key(..., "of its files", source=_FOUND)
    title: str = key("", "what stands above it", source=_FOUND)
    grid: Names | None = key(None, "name or names of the grids that it shows; –: all of them", source=_SEVERAL)
    rows: str = key(
        "labelled",
        'axis of its rows: a key of the grid or of [run], "class", "grid" (a row for each grid) or "choice" (a row for '
        "each value of the axes without a role)",
        source="paper, table 7",
    )
    columns: str = key("strategy", "axis of its columns, likewise; one for each set", source="paper, table 7")
    over: Names = key(("fold",), "axes that are replicates: pooled", source="paper 5")
    sets: Annotated[tuple[SetName, ...], BeforeValidator(_as_list)] = key(
        SETS, "whose scans were measured", source="paper, table 7"
    )
    metric: MetricKey = key("dsc", _METRIC, source=_BEYOND_DSC)
    baseline: str | int | float | bool | None = key(
        None,
        'column that the others are compared with, case by case; –: "baseline", else the first; "none": no comparison',
        source="ours: differences within cases show more than means",
    )
    published: str | None = key(
        None, "table that it stands beside with collect --against; –: the one of this name", source=_SEVERAL
    )
    row_labels: dict[str, str] = key({}, "value of rows as TOML writes it -> as it is printed", source=_FOUND)
    column_labels: dict[str, str] = key({}, "the same for columns", source=_FOUND)

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each key that names some."""
        return {"rows": (self.rows,), "columns": (self.columns,), "over": self.over}


class FigureDefinition(Section):
    """DSC, or another metric, of a grid's runs over the axis `x`, one colour per value of `hue`."""

    name: FileName = key(..., "of its files", source=_FOUND)
    title: str = key("", "what stands above it", source=_FOUND)
    grid: Names | None = key(None, "name or names of the grids that it shows; –: all of them", source=_SEVERAL)
    kind: FigureKind = key(
        ...,
        "what is drawn: values of cases, means with intervals, masks of one case, learned filters, losses by epoch, "
        "reconstructions of autoencoders",
        source="paper, figures 2 to 8",
    )
    x: str = key("labelled", "axis along the figure", source="paper, figures 4 to 7")
    hue: str = key("strategy", "axis with a colour for each value", source="paper, figures 4 to 7")
    over: Names = key(("fold",), "axes that are replicates: pooled", source="paper 5")
    set: SetName = key("test", "whose scans were measured", source="paper, figures 4 to 7")
    metric: MetricKey = key("dsc", _METRIC, source=_BEYOND_DSC)

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """The axes of each key that names some."""
        return {"x": (self.x,), "hue": (self.hue,), "over": self.over}

    @property
    def is_of_a_set(self) -> bool:
        """Whether `set` says what is drawn: losses, filters and reconstructions are of no set."""
        return self.kind in {"box", "curve", "examples"}

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
        plain = re.match("[A-Za-z0-9]", name) and not clashing_file([*names.values(), name])
        names[grid] = name if plain else f"grid{number}-{name}"
    return names
