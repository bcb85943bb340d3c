"""What a sweep file says of its tables and figures, and those of a sweep that says nothing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from hpcseg.inference.metrics import METRICS
from hpcseg.sections import Section
from hpcseg.study.tomlfile import nearest

SETS = ("validation", "test")
Axis = str | int | float | bool | tuple[Any, ...]


class Record(BaseModel):
    """What is read back from a file of our own: the keys used here, others ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TableDefinition(Record):
    """A table of a sweep file: which axis is what. Axes are keys of the grid, or of the run's configuration (dotted).

    `rows` or `columns` may be "class"; otherwise a case with several classes counts once, with their mean. Or "grid"
    and "choice": the grid's name, and which of the values that it gives to the axes without a role (1, 2, ...).
    """

    name: str
    title: str = ""
    grid: tuple[str, ...] | None = None  # None: all grids
    rows: str = "labelled"
    columns: str = "strategy"
    over: tuple[str, ...] = ("fold",)
    sets: tuple[str, ...] = SETS
    metric: str = "dsc"  # what of result.json it is about (hpcseg.inference.metrics)
    # Column that the others are compared with; None: "baseline", else the first; "none": no comparison.
    baseline: Any = None
    published: str | None = None  # the table of another collection to stand beside; None: the one of this name
    row_labels: dict[str, str] = {}  # value as TOML writes it -> as it is printed
    column_labels: dict[str, str] = {}

    @field_validator("grid", "over", "sets", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FigureDefinition(Record):
    """A figure of a sweep file."""

    name: str
    title: str = ""
    kind: Literal["box", "curve", "examples", "kernels", "learning", "reconstructions"]
    grid: tuple[str, ...] | None = None
    x: str = "labelled"
    hue: str = "strategy"
    over: tuple[str, ...] = ("fold",)
    set: str = "test"
    metric: str = "dsc"

    @field_validator("grid", "over", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def default_tables(grids: Sequence[str], sets: tuple[str, ...]) -> tuple[TableDefinition, ...]:
    """A table of each grid."""
    title = "DSC by number of labelled volumes and strategy ({})"
    return tuple(TableDefinition(name=grid, title=title.format(grid), grid=(grid,), sets=sets) for grid in grids)


def default_figures(grids: Sequence[str], sets: tuple[str, ...]) -> tuple[FigureDefinition, ...]:
    """For each grid box plots, curves and learning curves; examples of the last set."""
    titles = {
        "box": "DSC on the {} set",
        "curve": "DSC on the {} set with 95 % intervals",
        "examples": "A case of the {} set",
    }
    figures: list[FigureDefinition] = []
    for grid in grids:
        for kind, title in titles.items():
            for name in sets if kind != "examples" else sets[-1:]:
                value = {"name": f"{grid}-{kind}-{name}", "title": title.format(name), "kind": kind}
                figures.append(FigureDefinition.model_validate(value | {"grid": grid, "set": name}))
        name = f"{grid}-learning"
        figures.append(FigureDefinition(name=name, title="Learning curves", kind="learning", grid=(grid,)))
    return tuple(figures)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


SetName = Literal["validation", "test"]


def _known_metric(key: str) -> str:
    if key not in METRICS:
        raise ValueError(f"metric = {key!r} is not allowed{nearest(key, METRICS)}")
    return key


MetricKey = Annotated[str, AfterValidator(_known_metric)]


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class Table(Section):
    """`[[table]]`: Dice, or another `metric`, of a grid's runs: a row per value of `rows`, a column per value of
    `columns` and set.

    `rows` and `columns` are axes, "class", "grid" (one for each grid) or "choice" (one for each value of the axes that
    have no role, in the grid's order): `rows = "grid"`, `columns = "choice"` sets experiments that vary different keys
    below each other.
    """

    name: FileName
    title: str = ""
    grid: Names | None = None  # None: all
    rows: str = "labelled"
    columns: str = "strategy"
    over: Names = ("fold",)  # axes that are replicates
    sets: Annotated[tuple[SetName, ...], BeforeValidator(_as_list)] = ("validation", "test")
    metric: MetricKey = "dsc"
    published: str | None = None  # table of another collection to stand beside (collect --against); None: of this name
    baseline: str | int | float | bool | None = None  # column that the others are compared with; or "none"
    row_labels: dict[str, str] = Field(default_factory=dict)  # value as TOML writes it -> as it is printed
    column_labels: dict[str, str] = Field(default_factory=dict)


class Figure(Section):
    """`[[figure]]`: Dice, or another `metric`, of a grid's runs over the axis `x`, one colour per value of `hue`."""

    name: FileName
    title: str = ""
    grid: Names | None = None
    kind: Literal["box", "curve", "examples", "kernels", "learning", "reconstructions"]
    x: str = "labelled"
    hue: str = "strategy"
    over: Names = ("fold",)
    set: SetName = "test"
    metric: MetricKey = "dsc"
