"""A table in LaTeX, for booktabs (and graphicx where it has to be shrunk). Pure.

As the paper's: sets beside each other, columns within. Where that is wider than a page they stand below each other,
and what is still too wide is shrunk to the width of the text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from hpcseg.results.tables.cells import Key
from hpcseg.results.tables.rendering import (
    against,
    contrast_with_p,
    format_beside,
    format_cell,
    format_replicates,
    has_replicates,
    others,
    remarks,
    replicates_title,
)
from hpcseg.results.tables.tables import Table
from hpcseg.study.tables import Axis

SIGNS = {sign: f"\\{sign}" for sign in "&%_#${}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "φ": r"$\varphi$",
    "γ": r"$\gamma$",
    "σ": r"$\sigma$",
    "δ": r"$\delta$",
    "–": "--",
    "−": "$-$",
    "…": r"\ldots{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\textsection{}",
    "\n": " ",
}
TEXT_PT = 455.0  # width of the text on A4 with margins of 2.5 cm
SIGN_PT, GAP_PT = 4.6, 12.0  # a figure or letter of the 10 pt body font, on average; space between columns


def escape(text: str) -> str:
    """Text with LaTeX's own signs escaped."""
    return "".join(SIGNS.get(sign, sign) for sign in text)


def to_latex(table: Table) -> str:
    """`table` environments: the cells, then contrasts, what stands beside, and the single runs' means."""
    title = (table.definition.title or table.definition.name).rstrip(".")
    parts = [("", f"{title}.", table.columns, lambda key: format_cell(table.cells.get(key), table.metric))]
    if table.contrasts:
        caption = f"{title}: difference from {against(table)}, mean [95 % interval], p after Holm's correction."
        parts.append(("-differences", caption, others(table), lambda key: contrast_with_p(table, key)))
    if beside := table.beside:
        caption = f"{title}: {beside.label}'s {beside.table}, in brackets the difference of ours from it."
        parts.append(("-beside", caption, table.columns, lambda key: format_beside(table, key)))
    if has_replicates(table):
        caption = f"{title}. {replicates_title(table).rstrip(':')}."
        parts.append(("-runs", caption, table.columns, lambda key: format_replicates(table, key)))
    notes = " ".join(escape(line) for line in remarks(table))
    environments = []
    for ending, caption, columns, text in parts:
        body = _shrunk(table, columns, text)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}"]
        lines += [rf"\label{{tab:{table.definition.name}{ending}}}", *body]
        if not ending:
            lines += [rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
        environments.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(environments)


def _shrunk(table: Table, columns: tuple[Axis, ...], text: Callable[[Key], str]) -> list[str]:
    """The tabular that is as wide as a page at most."""
    widths = [_width(table, columns, text, beside=beside) for beside in (True, False)]
    beside = len(table.sets) == 1 or widths[0] <= TEXT_PT
    lines = _tabular(table, columns, text, beside=beside)
    if widths[0 if beside else 1] <= TEXT_PT:
        return lines
    return [r"\resizebox{\linewidth}{!}{%", *lines, "}"]


def _width(table: Table, columns: tuple[Axis, ...], text: Callable[[Key], str], *, beside: bool) -> float:
    """Estimated width in points."""
    rows = [table.row_label(table.definition.rows), *map(table.row_label, table.rows)]
    columns_pt = max(map(len, rows)) * SIGN_PT
    for index, column in enumerate(columns):
        each = []
        for name in table.sets:
            cells = [len(text((name, row, column))) for row in table.rows]
            each.append(GAP_PT + SIGN_PT * max(*cells, *map(len, _head(table, columns, text)[index]), 0))
        columns_pt += sum(each) if beside else max(each)
    return columns_pt


def _head(table: Table, columns: tuple[Axis, ...], text: Callable[[Key], str]) -> list[list[str]]:
    """Columns' names, broken into lines where they are longer than what stands below."""
    heads = []
    for column in columns:
        cells = [len(text((name, row, column))) for name in table.sets for row in table.rows]
        heads.append(textwrap.wrap(table.column_label(column), max(*cells, 12), break_long_words=False) or [""])
    return heads


def _tabular(table: Table, columns: tuple[Axis, ...], text: Callable[[Key], str], *, beside: bool) -> list[str]:
    count, blocks = len(columns), len(table.sets) if beside else 1
    names = [_stacked(lines) for lines in _head(table, columns, text)]
    heads = [rf"\multicolumn{{{count}}}{{c}}{{{escape(name.capitalize())} set}}" for name in table.sets]
    rules = [rf"\cmidrule(lr){{{2 + count * n}-{1 + count * (n + 1)}}}" for n in range(len(table.sets))]
    lines = [rf"\begin{{tabular}}{{@{{}}r{'c' * count * blocks}@{{}}}}", r"\toprule"]
    if beside:
        lines += [rf" & {' & '.join(heads)} \\", " ".join(rules)]
    lines += [rf"{' & '.join([escape(table.row_label(table.definition.rows)), *names * blocks])} \\", r"\midrule"]
    if beside:
        lines += [
            _line(table, row, [(name, row, c) for name in table.sets for c in columns], text) for row in table.rows
        ]
    else:
        for number, name in enumerate(table.sets):
            lines += [r"\midrule"] * (number > 0) + [rf" & {heads[number]} \\", r"\addlinespace[2pt]"]
            lines += [_line(table, row, [(name, row, column) for column in columns], text) for row in table.rows]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _stacked(lines: list[str]) -> str:
    """Lines of a head above each other."""
    joined = r" \\ ".join(map(escape, lines))
    return joined if len(lines) == 1 else rf"\shortstack{{{joined}}}"


def _line(table: Table, row: Axis, keys: list[Key], text: Callable[[Key], str]) -> str:
    first = escape(table.row_label(row))
    # After the line before, which ends in \\, a bracket would be taken for its argument.
    cells = ["{}" + first if first.startswith(("[", "*")) else first, *(escape(text(key)) for key in keys)]
    return rf"{' & '.join(cells)} \\"
