"""A table as text, Markdown, LaTeX, CSV and JSON. Pure.

Everywhere: "–" is a cell whose runs are all missing, "(3/5)" marks one of which three of five runs are there, and an
empty cell is not part of the sweep.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hpcseg.results.axes import label
from hpcseg.results.collect import Axis
from hpcseg.results.tables import Cell, Contrast, Key, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

DASH = "–"
LATEX_SIGNS = {sign: f"\\{sign}" for sign in "&%_#${}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
}


def format_cell(cell: Cell | None) -> str:
    """Mean ± SD to three decimals, with a mark where runs are missing."""
    if cell is None:
        return ""
    part = "" if cell.present == cell.expected else f" ({cell.present}/{cell.expected})"
    if cell.mean is None:
        return DASH + part
    return f"{cell.mean:.3f}" + ("" if cell.sd is None else f" ± {cell.sd:.3f}") + part


def format_contrast(contrast: Contrast | None) -> str:
    """Signed paired mean difference ± SD of the differences, starred where runs are missing."""
    if contrast is None:
        return ""
    spread = "" if contrast.sd is None else f" ± {contrast.sd:.3f}"
    return f"{contrast.mean:+.3f}{spread}{'' if contrast.complete else ' *'}".replace("-", "−")


def remarks(table: Table) -> list[str]:
    """What a reader must know beside the numbers: how they were made, what is missing, how strategies compare."""
    over = " and ".join(f"{label(key)}s" for key in table.definition.over)
    lines = [f"DSC, mean ± sample SD over cases, pooled over {over}."]
    partial = sum(cell.present < cell.expected for cell in table.cells.values())
    if partial:
        lines.append(f"{DASH} or (k/m): {partial} of {len(table.cells)} cells have only k of their m runs.")
    better, compared = table.improved
    if compared:
        against = table.column_label(table.baseline) if table.baseline is not None else ""
        lines.append(
            f"Higher than {against} in {better} of {compared} cells ({better / compared:.0%}), paired by case."
        )
    if any(not contrast.complete for contrast in table.contrasts.values()):
        lines.append("* compared on the runs that are there.")
    return lines + [f"Note: {note}." for note in table.notes]


def to_rich(table: Table) -> RichTable:
    """For a terminal: a section per set, below each cell its difference from the baseline in dim type."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    title = escape(table.definition.title or table.definition.name)
    rich = RichTable(title=title, caption=escape("\n".join(remarks(table))))
    rich.title_justify = rich.caption_justify = "left"
    rich.add_column(table.row_label(table.definition.rows), justify="right")
    for column in table.columns:
        rich.add_column(table.column_label(column), justify="right")
    for name in table.sets:
        rich.add_row(f"[bold]{name}[/bold]")
        for row in table.rows:
            rich.add_row(table.row_label(row), *(_rich_cell(table, (name, row, column)) for column in table.columns))
        rich.add_section()
    return rich


def _rich_cell(table: Table, key: Key) -> str:
    difference = format_contrast(table.contrasts.get(key))
    return format_cell(table.cells.get(key)) + (f"\n[dim]{difference}[/dim]" if difference else "")


def to_text(table: Table, width: int = 100) -> str:
    """The terminal's table as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(to_rich(table))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def to_markdown(table: Table) -> str:
    """Cells, then the paired differences from the baseline, as Markdown."""
    blocks = [f"## {table.definition.title or table.definition.name}"]
    blocks.append(_markdown_grid(table, table.columns, lambda key: format_cell(table.cells.get(key))))
    if table.contrasts:
        others = tuple(column for column in table.columns if column != table.baseline)
        against = table.column_label(table.baseline) if table.baseline is not None else ""
        blocks.append(f"Difference from {against}, paired by case:")
        blocks.append(_markdown_grid(table, others, lambda key: format_contrast(table.contrasts.get(key))))
    return "\n\n".join([*blocks, "  \n".join(remarks(table))]) + "\n"


def to_latex(table: Table) -> str:
    """A `table` environment for booktabs, the paper's layout: sets beside each other, columns within."""
    title = (table.definition.title or table.definition.name).rstrip(".")
    columns, sets = len(table.columns), len(table.sets)
    spans = [(2 + columns * n, 1 + columns * (n + 1)) for n in range(sets)]
    heads = " & ".join(rf"\multicolumn{{{columns}}}{{c}}{{{_tex(name.capitalize())} set}}" for name in table.sets)
    names = " & ".join(
        [
            _tex(table.row_label(table.definition.rows)),
            *(_tex(table.column_label(c)) for _ in table.sets for c in table.columns),
        ]
    )
    rows = [
        " & ".join(
            _tex(cell)
            for cell in (table.row_label(row), *(format_cell(table.cells.get(key)) for key in _keys(table, row)))
        )
        for row in table.rows
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(title)}. {_tex(' '.join(remarks(table)))}}}",
            rf"\label{{tab:{table.definition.name}}}",
            rf"\begin{{tabular}}{{r{'c' * columns * sets}}}",
            r"\toprule",
            rf" & {heads} \\",
            " ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in spans),
            rf"{names} \\",
            r"\midrule",
            *(rf"{row} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_csv(table: Table) -> str:
    """Long format: one line per set, row, column, replicate and case; a missing run has a line without case and DSC."""
    head = ["set", table.definition.rows, table.definition.columns, *table.definition.over, "case", "dsc", "status"]
    width = len(table.definition.over)
    lines: list[list[Any]] = []
    for (name, row, column), cell in _ordered(table):
        place = [name, _plain(row), _plain(column)]
        for (replicate, case), value in cell.values.items():
            lines.append([*place, *map(_plain, replicate[:width]), case, repr(value), "present"])
        lines += [[*place, *map(_plain, replicate[:width]), "", "", "missing"] for replicate in cell.missing]
    return _csv(head, lines)


def to_summary_csv(table: Table) -> str:
    """One line per set, row and column: the cell and its contrast with the baseline."""
    cells = [_summary(table, key, cell) for key, cell in _ordered(table)]
    return _csv(list(cells[0]), (cell.values() for cell in cells)) if cells else ""


def to_json(table: Table) -> str:
    """Everything: cells with their values, replicates' means and missing runs, contrasts, notes."""
    better, compared = table.improved
    cells = []
    for key, cell in _ordered(table):
        entry = _summary(table, key, cell)
        entry["missing"] = [list(replicate) for replicate in cell.missing]
        entry["replicate_means"] = [
            {"replicate": list(replicate), "mean": mean} for replicate, mean in cell.replicate_means.items()
        ]
        entry["values"] = [
            {"replicate": list(replicate), "case": case, "dsc": value}
            for (replicate, case), value in cell.values.items()
        ]
        cells.append(entry)
    document = {
        "table": table.definition.model_dump(),
        "rows": table.rows,
        "columns": table.columns,
        "baseline": table.baseline,
        "improved": better,
        "compared": compared,
        "remarks": remarks(table),
        "cells": cells,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _summary(table: Table, key: Key, cell: Cell) -> dict[str, Any]:
    name, row, column = key
    contrast = table.contrasts.get(key)
    return {
        "set": name,
        table.definition.rows: _plain(row),
        table.definition.columns: _plain(column),
        "mean": cell.mean,
        "sd": cell.sd,
        "scores": len(cell.values),
        "undefined": cell.undefined,
        "runs_expected": cell.expected,
        "runs_present": cell.present,
        "sd_of_run_means": cell.sd_of_means,
        "pairs": contrast and contrast.pairs,
        "difference": contrast and contrast.mean,
        "difference_sd": contrast and contrast.sd,
        "difference_of_run_means": contrast and contrast.replicate_mean,
        "difference_of_run_means_sd": contrast and contrast.replicate_sd,
    }


def _keys(table: Table, row: Axis, columns: tuple[Axis, ...] | None = None) -> list[Key]:
    return [(name, row, column) for name in table.sets for column in columns or table.columns]


def _ordered(table: Table) -> list[tuple[Key, Cell]]:
    keys = [key for row in table.rows for key in _keys(table, row)]
    return [
        (key, table.cells[key]) for key in sorted(keys, key=lambda key: table.sets.index(key[0])) if key in table.cells
    ]


def _markdown_grid(table: Table, columns: tuple[Axis, ...], text: Any) -> str:
    head = [
        table.row_label(table.definition.rows),
        *(f"{name}: {table.column_label(column)}" for name in table.sets for column in columns),
    ]
    rows = [[table.row_label(row), *(text(key) for key in _keys(table, row, columns))] for row in table.rows]
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(value: Axis) -> str | int | float:
    return value if isinstance(value, str | int | float) else label(value)


def _csv(head: list[str], lines: Iterable[Iterable[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return stream.getvalue()


def _tex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
