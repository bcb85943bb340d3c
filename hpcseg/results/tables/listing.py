"""A table as a list: a line for each cell, with everything that one has to know beside its mean. Pure."""

from __future__ import annotations

from hpcseg.results.tables.axes import label
from hpcseg.results.tables.cells import Cell, Key
from hpcseg.results.tables.rendering import against, format_cell, format_contrast, format_interval, format_p, remarks
from hpcseg.results.tables.tables import Table


def to_list(table: Table) -> str:
    """Markdown: mean ± SD of each cell with its n, its difference from the baseline with both intervals, and minutes.

    Columns that would be empty are left out.
    """
    sets, unit = len(table.sets) > 1, f"{label(table.definition.over[0])}s" if table.definition.over else ""
    heads = ["Set", *(table.row_label(key) for key in (table.definition.rows, table.definition.columns))]
    heads += [table.metric.label, "scores", f"− {against(table)} [cases drawn]", f"[cases and {unit} drawn]", "p"]
    lines = [
        ["" if not sets else key[0], table.row_label(key[1]), table.column_label(key[2]), *_texts(table, key, cell)]
        for name in table.sets
        for row in table.rows
        for column in table.columns
        if (cell := table.cells.get(key := (name, row, column)))
    ]
    columns = [(head, texts) for head, *texts in zip([*heads, "minutes"], *lines, strict=True) if any(texts)]
    rules = [":--" if head in heads[:3] else "--:" for head, _ in columns]
    rows = [[head for head, _ in columns], rules, *zip(*(texts for _, texts in columns), strict=True)]
    grid = "\n".join("| " + " | ".join(text.replace("|", r"\|") for text in row) + " |" for row in rows)
    return "\n\n".join([f"## {table.title}", grid, "  \n".join([*remarks(table), *_notes(table, unit)])]) + "\n"


def _texts(table: Table, key: Key, cell: Cell) -> list[str]:
    minutes = "" if cell.minutes is None else f"{cell.minutes:.1f}"
    both = format_interval(table, key)
    return [format_cell(table, key), _scores(cell), format_contrast(table, key), both, format_p(table, key), minutes]


def _scores(cell: Cell) -> str:
    """How many: "200 (40 × 5)", where every run has the same cases."""
    if not cell.values:
        return ""
    scores, cases, runs = len(cell.flat), len(set().union(*cell.values.values())), len(cell.values)
    return f"{scores} ({cases} × {runs})" if scores == cases * runs else str(scores)


def _notes(table: Table, unit: str) -> list[str]:
    cells = table.cells.values()
    lines = ["scores: their number, and where every run has measured the same cases, cases × runs."]
    if any(contrast.interval for contrast in table.contrasts.values()):
        lines.append(f"[cases and {unit} drawn]: 95 % bootstrap interval of the same difference, {unit} drawn, too.")
    if any(cell.minutes is not None for cell in cells):
        lines.append("minutes: of one run by the clock, training and all that it needed (not packing), on the threads")
        lines[-1] += " that it had while others ran beside it; mean over runs."
    return lines
