"""A table for readers: in a terminal, as text and as Markdown. Pure.

Everywhere: "–" is a cell whose runs are all missing, "(3/5)" marks one of which three of five runs are there, "‡" one
with stale results, "§" one with results that were not made as most, "{2}" one without two values that are undefined;
an empty cell is not part of the sweep.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpcseg.inference.metrics import Metric
from hpcseg.results.tables.axes import label
from hpcseg.results.tables.cells import Key
from hpcseg.results.tables.statistics import Interval
from hpcseg.results.tables.tables import Improved, Table
from hpcseg.study.tables import Axis

if TYPE_CHECKING:
    from rich.table import Table as RichTable

DASH = "–"
SIGNIFICANT, STALE, ODD = "†", "‡", "§"
ALPHA = 0.05


def format_cell(table: Table, key: Key) -> str:
    """Mean ± SD, with marks for what is missing, undefined, stale or made otherwise."""
    cell = table.cells.get(key)
    if cell is None:
        return ""
    marks = "" if cell.present == cell.expected else f" ({cell.present}/{cell.expected})"
    marks += f" {{{cell.undefined}}}" if cell.undefined else ""
    marks += STALE * bool(cell.stale) + ODD * bool(cell.odd)
    return (DASH if cell.mean is None else _pair(cell.mean, cell.sd, table.metric)) + marks


def format_contrast(table: Table, key: Key) -> str:
    """Signed paired mean difference with its interval, marked where it is significant and where runs are missing."""
    contrast = table.contrasts.get(key)
    if contrast is None:
        return ""
    bounds = _bounds(contrast.by_case.interval, table.metric)
    sure = SIGNIFICANT if contrast.p is not None and contrast.p < ALPHA else ""
    difference = f"{_signed(contrast.mean, table.metric)} {bounds}".rstrip()
    return f"{difference}{sure}{'' if contrast.complete else ' *'}"


def format_interval(table: Table, key: Key) -> str:
    """A contrast's interval with cases and folds drawn."""
    contrast = table.contrasts.get(key)
    return _bounds(contrast.interval, table.metric) if contrast else ""


def format_p(table: Table, key: Key) -> str:
    """A contrast's p after Holm's correction, to three decimals."""
    contrast = table.contrasts.get(key)
    if contrast is None or contrast.p is None:
        return ""
    return "p < 0.001" if contrast.p < 0.001 else f"p = {contrast.p:.3f}"


def format_beside(table: Table, key: Key) -> str:
    """What stands beside a cell, and how far ours is from it: "0.815 ± 0.028 (−0.003)"."""
    pair = table.beside.values.get(key) if table.beside else None
    if pair is None:
        return ""
    ours = table.cells[key].mean
    difference = "" if ours is None else f" ({_signed(ours - pair[0], table.metric)})"
    return _pair(*pair, table.metric) + difference


def format_replicates(table: Table, key: Key) -> str:
    """The means of a cell's single runs, in their order; "–" for one that is missing."""
    cell = table.cells.get(key)
    if cell is None:
        return ""
    means = [cell.replicate_means.get(replicate) for replicate in cell.replicates]
    return " ".join(DASH if mean is None else _pair(mean, None, table.metric) for mean in means)


def _pair(value: float, sd: float | None, metric: Metric) -> str:
    """A mean and its standard deviation, to the metric's decimals."""
    spread = "" if sd is None else f" ± {sd:.{metric.decimals}f}"
    return f"{value:z.{metric.decimals}f}{spread}".replace("-", "−")


def _bounds(interval: Interval | None, metric: Metric) -> str:
    """Both ends of an interval."""
    return f"[{', '.join(_signed(bound, metric) for bound in interval)}]" if interval else ""


def _signed(value: float, metric: Metric) -> str:
    """A difference with its sign, to the metric's decimals; 0 has none."""
    text = f"{value:+.{metric.decimals}f}".replace("-", "−")
    return text if any(digit in text for digit in "123456789") else text[1:]


@dataclass(frozen=True)
class Part:
    """One of the grids in which a table is written: a text for each of its rows, and of its sets and these columns."""

    kind: Literal["cells", "differences", "beside", "runs"]
    columns: tuple[Axis, ...]
    text: Callable[[Key], str]


def parts_of(table: Table) -> list[Part]:
    """Cells, then contrasts with the baseline, what stands beside and the single runs' means, where there are any."""

    def contrast(key: Key) -> str:
        return ", ".join(filter(None, (format_contrast(table, key), format_p(table, key))))

    parts = [Part("cells", table.columns, lambda key: format_cell(table, key))]
    if table.contrasts:
        others = tuple(column for column in table.columns if column != table.baseline)
        parts.append(Part("differences", others, contrast))
    if table.beside:
        parts.append(Part("beside", table.columns, lambda key: format_beside(table, key)))
    if has_replicates(table):
        parts.append(Part("runs", table.columns, functools.cache(functools.partial(format_replicates, table))))
    return parts


def has_replicates(table: Table) -> bool:
    """Whether any cell has more than one run."""
    return any(cell.expected > 1 for cell in table.cells.values())


def remarks(table: Table) -> list[str]:
    """What a reader must know beside the numbers: how they were made, what is missing, how columns compare."""
    over = " and ".join(f"{label(key)}s" for key in table.definition.over)
    lines = [f"{table.metric.name}, mean ± sample SD over cases, pooled over {over}."]
    partial = sum(cell.present < cell.expected for cell in table.cells.values())
    if partial:
        lines.append(f"{DASH} or (k/m): {partial} of {len(table.cells)} cells have only k of their m runs.")
    if stale := sorted({run for cell in table.cells.values() for run in cell.stale}):
        lines.append(f"{STALE} Stale results ({len(stale)}): {', '.join(stale[:3])}{', …' * (len(stale) > 3)}.")
    lines += [f"{ODD} Not all made alike: {line}." for line in table.mixed.lines]
    return lines + _comparison(table) + [f"Note: {note}." for note in table.notes]


def _comparison(table: Table) -> list[str]:
    """How columns compare with the baseline, and ours with what stands beside."""
    lines, beside = [], table.beside
    better, compared = table.improved
    if compared and table.metric.better:
        word = {"higher": "Higher", "lower": "Lower", "zero": "Nearer to zero"}[table.metric.better]
        theirs = f"; {beside.label}: {share(*beside.improved)}" if beside and beside.improved[1] else ""
        lines.append(f"{word} than {against(table)} in {share(better, compared)}, paired by case{theirs}.")
    if compared:
        lines.append(
            f"Differences of the {table.metric.compared} ({table.metric.direction}): mean [95 % bootstrap interval, "
            f"cases drawn]; {SIGNIFICANT} p < {ALPHA} (Wilcoxon over cases, Holm over {compared} contrasts)."
        )
    if any(not contrast.complete for contrast in table.contrasts.values()):
        lines.append("* compared on the runs that are there.")
    if beside:
        lines.append(f"Beside: {beside.label}'s {beside.table}, in brackets ours − theirs.")
        lines += [f"Note: {note}." for note in beside.notes]
    return lines


def share(better: int, compared: int) -> str:
    """ "27 of 36 cells (75%)"."""
    return f"{better} of {compared} cells ({better / compared:.0%})"


def overall(improved: Improved) -> str:
    """The share of improved cells over several tables, in a line."""
    theirs = f"; {improved.label}: {share(*improved.beside)}" if improved.label else ""
    ours = share(improved.better, improved.compared)
    return f"Better than the baseline in {ours} of {', '.join(improved.tables)}{theirs}."


def against(table: Table) -> str:
    """The baseline as it is printed."""
    return table.column_label(table.baseline) if table.baseline is not None else ""


def to_rich(table: Table) -> RichTable:
    """For a terminal: a section per set; below each cell, in dim type, its contrast and what stands beside it."""

    def lines_of(key: Key) -> tuple[str, ...]:
        beside = format_beside(table, key)
        return format_cell(table, key), format_contrast(table, key), f"vs. {beside}" if beside else ""

    return _rich(table, lines_of, "\n".join(remarks(table)))


def _rich(table: Table, lines_of: Callable[[Key], tuple[str, ...]], caption: str) -> RichTable:
    from rich.markup import escape
    from rich.table import Table as RichTable

    def text(key: Key) -> str:
        first, *others = (escape(line) for line in lines_of(key))
        return "\n".join([first, *(f"[dim]{line}[/dim]" for line in others if line)])

    title = escape(table.title)
    rich = RichTable(title=title, caption=escape(caption))
    rich.title_justify = rich.caption_justify = "left"
    for name in (table.row_label(table.definition.rows), *map(table.column_label, table.columns)):
        rich.add_column(escape(name), justify="right")
    for name in table.sets:
        rich.add_row(f"[bold]{name}[/bold]")
        for row in table.rows:
            rich.add_row(escape(table.row_label(row)), *(text((name, row, column)) for column in table.columns))
        rich.add_section()
    return rich


def to_text(table: Table, width: int = 120) -> str:
    """The terminal's table as plain text, and one of the single runs' means."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(to_rich(table))
        if has_replicates(table):
            console.print(_rich(table, lambda key: (format_replicates(table, key),), replicates_title(table)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def replicates_title(table: Table) -> str:
    """Over a table of the single runs' means."""
    largest = max(table.cells.values(), key=lambda cell: cell.expected)
    names = [", ".join(map(label, replicate[: len(table.definition.over)])) for replicate in largest.replicates]
    named = f" ({'; '.join(names)})" if len(names) <= 10 else ""
    return f"Mean {table.metric.label} of each {' and '.join(map(label, table.definition.over))}{named}:"


def to_markdown(table: Table) -> str:
    """Every part of a table, each below what it is, as Markdown."""
    blocks = [f"## {table.title}"]
    for part in parts_of(table):
        if part.kind == "differences":
            blocks.append(f"Difference from {against(table)}, paired by case: mean [95 % interval], p after Holm:")
        elif part.kind == "beside" and table.beside:
            blocks.append(
                f"{table.beside.label[:1].upper()}{table.beside.label[1:]}'s {table.beside.table} (ours − theirs):"
            )
        elif part.kind == "runs":
            blocks.append(replicates_title(table))
        blocks.append(_grid(table, part))
    return "\n\n".join([*blocks, "  \n".join(remarks(table))]) + "\n"


def _grid(table: Table, part: Part) -> str:
    places = [(name, column) for name in table.sets for column in part.columns]
    lines = [
        [table.row_label(table.definition.rows), *(f"{name}: {table.column_label(column)}" for name, column in places)],
        ["---:"] * (1 + len(places)),
        *([table.row_label(row), *(part.text((name, row, column)) for name, column in places)] for row in table.rows),
    ]
    return "\n".join("| " + " | ".join(item.replace("|", r"\|") for item in line) + " |" for line in lines)
