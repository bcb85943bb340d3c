"""Tables as the report shows them: cells as text, with what a reader may sort, mark and take away. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcseg.inference.metrics import Metric
from hpcseg.results.figures.style import looks
from hpcseg.results.tables.cells import Cell, Key
from hpcseg.results.tables.latex import to_latex
from hpcseg.results.tables.machine_readable import to_summary_csv
from hpcseg.results.tables.rendering import (
    against,
    format_beside,
    format_cell,
    format_contrast,
    format_p,
    format_replicates,
    has_replicates,
    remarks,
    replicates_title,
    to_markdown,
)
from hpcseg.results.tables.tables import Table
from hpcseg.study.tables import Axis

SINGLE_RUNS = 10  # as many runs of a cell are listed one by one
DOWNLOADS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "csv": ("text/csv", to_summary_csv),
    "md": ("text/markdown", to_markdown),
    "tex": ("application/x-tex", to_latex),
}


@dataclass(frozen=True)
class Heading:
    """A column; `colour` as in the figures, "" where those do not show the columns."""

    text: str
    colour: str


@dataclass(frozen=True)
class Square:
    """A cell.

    Attributes:
        text: mean ± SD with its marks.
        value: the mean, to sort by.
        contrast, p: its difference from the baseline's cell, and how sure that is.
        direction: whether that is "better" or "worse"; "" where neither is.
        beside: what was published.
        runs: the means of its single runs.
        best: none of its row and set is better, and all of those have all their runs.
    """

    text: str
    value: float | None
    contrast: str
    p: str
    direction: str
    beside: str
    runs: str
    best: bool


@dataclass(frozen=True)
class Sheet:
    """A table: of each row its label and its cells, set by set; `single` names the single runs, "" without them."""

    name: str
    title: str
    corner: str
    sets: tuple[str, ...]
    columns: tuple[Heading, ...]
    rows: tuple[tuple[str, tuple[Square, ...]], ...]
    against: str
    beside: str
    single: str
    remarks: tuple[str, ...]
    downloads: tuple[tuple[str, str], ...]  # file name, data URI


def sheet_of(table: Table) -> Sheet:
    """A table as the page shows it."""
    definition = table.definition
    look = looks(table.columns) if definition.columns == "strategy" else {}
    largest = max((cell.expected for cell in table.cells.values()), default=0)
    return Sheet(
        name=definition.name,
        title=definition.title or definition.name,
        corner=table.row_label(definition.rows),
        sets=table.sets,
        columns=tuple(
            Heading(table.column_label(value), look[value].colour if look else "") for value in table.columns
        ),
        rows=tuple(
            (table.row_label(row), tuple(square for name in table.sets for square in _squares(table, name, row)))
            for row in table.rows
        ),
        against=against(table) if table.contrasts else "",
        beside=table.beside.label if table.beside else "",
        single=replicates_title(table).rstrip(":") if has_replicates(table) and largest <= SINGLE_RUNS else "",
        remarks=tuple(remarks(table)),
        downloads=tuple(
            (f"{definition.name}.{ending}", data_uri(render(table).encode(), kind))
            for ending, (kind, render) in DOWNLOADS.items()
        ),
    )


def data_uri(content: bytes, kind: str) -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _squares(table: Table, name: str, row: Axis) -> list[Square]:
    """The cells of one row in one set."""
    keys: list[Key] = [(name, row, column) for column in table.columns]
    best = _best([table.cells.get(key) for key in keys], table.metric)
    return [_square(table, key, best=key in {keys[index] for index in best}) for key in keys]


def _square(table: Table, key: Key, *, best: bool) -> Square:
    cell, contrast, text = table.cells.get(key), table.contrasts.get(key), format_contrast(table, key)
    shown = any(digit in text.partition(" ")[0] for digit in "123456789")  # a difference that is printed as 0 is none
    direction = "" if contrast is None or not table.metric.better or not shown else "worse"
    return Square(
        text=format_cell(table, key),
        value=None if cell is None else cell.mean,
        contrast=text,
        p=format_p(table, key),
        direction="better" if direction and contrast is not None and contrast.improved else direction,
        beside=format_beside(table, key),
        runs=format_replicates(table, key),
        best=best,
    )


def _best(cells: Sequence[Cell | None], metric: Metric) -> list[int]:
    """Places of the best means as they are printed; none where runs are missing or all are the same."""
    found = [cell.mean for cell in cells if cell is not None and cell.present == cell.expected]
    means = [round(metric.comparable(mean), metric.decimals) for mean in found if mean is not None]
    if len(means) < len(cells) or len(set(means)) < 2 or not metric.better:
        return []
    top = max(means) if metric.better == "higher" else min(means)
    return [index for index, mean in enumerate(means) if mean == top]
