"""Tables as the report shows them: what a reader may sort, mark and take away. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable

from hpcseg.results.figures.style import looks
from hpcseg.results.tables import rendering
from hpcseg.results.tables.cells import Key
from hpcseg.results.tables.latex import to_latex
from hpcseg.results.tables.machine_readable import to_summary_csv
from hpcseg.results.tables.tables import Table
from hpcseg.study.tables import Axis

SINGLE_RUNS = 10  # as many runs of a cell are listed one by one
DOWNLOADS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "csv": ("text/csv", to_summary_csv),
    "md": ("text/markdown", rendering.to_markdown),
    "tex": ("application/x-tex", to_latex),
}


def colour_of(table: Table, column: Axis) -> str:
    """Of a column, as in the figures; "" where those do not show the columns."""
    return looks(table.columns)[column].colour if table.definition.columns == "strategy" else ""


def direction_of(table: Table, key: Key) -> str:
    """Whether a cell is "better" or "worse" than the baseline's; "" where the interval has 0 in it as printed."""
    contrast = table.contrasts.get(key)
    if contrast is None or not table.metric.better or contrast.by_case.interval is None:
        return ""
    low, high = (round(bound, table.metric.decimals) for bound in contrast.by_case.interval)
    if low <= 0 <= high:
        return ""
    return "better" if contrast.improved else "worse"


def best_columns(table: Table, name: str, row: Axis) -> set[Axis]:
    """Columns of the best means of a row in a set, as they are printed.

    None where any of the row's runs are missing, or all its means are the same.
    """
    metric, means = table.metric, {}
    for column in table.columns:
        cell = table.cells.get((name, row, column))
        if cell is None or cell.mean is None or cell.present != cell.expected:
            return set()
        means[column] = round(metric.comparable(cell.mean), metric.decimals)
    if len(set(means.values())) < 2 or not metric.better:
        return set()
    best = max(means.values()) if metric.better == "higher" else min(means.values())
    return {column for column, mean in means.items() if mean == best}


def title_of_single_runs(table: Table) -> str:
    """Over the means of the single runs; "" where there are too few or too many to be listed."""
    largest = max((cell.expected for cell in table.cells.values()), default=0)
    return rendering.replicates_title(table).rstrip(":") if 1 < largest <= SINGLE_RUNS else ""


def downloads_of(table: Table) -> dict[str, str]:
    """The table as files, by their names, each as a data URI."""
    return {
        f"{table.definition.name}.{ending}": data_uri(render(table).encode(), kind)
        for ending, (kind, render) in DOWNLOADS.items()
    }


def data_uri(content: bytes, kind: str) -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
