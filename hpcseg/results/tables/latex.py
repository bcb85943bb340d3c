"""A table in LaTeX, for booktabs (and graphicx where it has to be shrunk). Pure.

As the paper's: sets beside each other, columns within. Where that is wider than a page they stand below each other,
and what is still too wide is shrunk to the width of the text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from hpcseg.results.tables.rendering import Part, against, parts_of, remarks, replicates_title
from hpcseg.results.tables.tables import Table
from hpcseg.study.tables import Axis

SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "&%_#${}"}) | str.maketrans(
    {
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
)
TEXT_PT = 455.0  # width of the text on A4 with margins of 2.5 cm
SIGN_PT, GAP_PT = 4.6, 12.0  # a figure or letter of the 10 pt body font, on average; space between columns


def escape(text: str) -> str:
    """Text with LaTeX's own signs escaped."""
    return text.translate(SIGNS)


def to_latex(table: Table) -> str:
    """A `table` environment for every part of a table."""
    name, title = table.definition.name, table.title.rstrip(".")
    notes = " ".join(escape(line) for line in remarks(table))
    environments = []
    for part in parts_of(table):
        ending = "" if part.kind == "cells" else f"-{part.kind}"
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(_caption(table, part, title))}}}"]
        lines += [rf"\label{{tab:{name}{ending}}}", *_shrunk(table, part)]
        if not ending:
            lines += [rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
        environments.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(environments)


def _caption(table: Table, part: Part, title: str) -> str:
    if part.kind == "differences":
        return f"{title}: difference from {against(table)}, mean [95 % interval], p after Holm's correction."
    if part.kind == "beside" and table.beside:
        return f"{title}: {table.beside.label}'s {table.beside.table}, in brackets the difference of ours from it."
    return f"{title}. {replicates_title(table).rstrip(':')}." if part.kind == "runs" else f"{title}."


def _shrunk(table: Table, part: Part) -> list[str]:
    """The tabular that is as wide as a page at most."""
    widths = [_width(table, part, beside=beside) for beside in (True, False)]
    beside = len(table.sets) == 1 or widths[0] <= TEXT_PT
    lines = _tabular(table, part, beside=beside)
    if widths[0 if beside else 1] <= TEXT_PT:
        return lines
    return [r"\resizebox{\linewidth}{!}{%", *lines, "}"]


def _width(table: Table, part: Part, *, beside: bool) -> float:
    """Estimated width in points."""
    rows = [table.row_label(table.definition.rows), *map(table.row_label, table.rows)]
    width = max(map(len, rows)) * SIGN_PT
    for column, head in zip(part.columns, _heads(table, part), strict=True):
        each = []
        for name in table.sets:
            texts = [*head, *(part.text((name, row, column)) for row in table.rows)]
            each.append(GAP_PT + SIGN_PT * max(map(len, texts)))
        width += sum(each) if beside else max(each)
    return width


def _heads(table: Table, part: Part) -> list[list[str]]:
    """Columns' names, broken into lines where they are longer than what stands below."""
    heads = []
    for column in part.columns:
        cells = [len(part.text((name, row, column))) for name in table.sets for row in table.rows]
        heads.append(textwrap.wrap(table.column_label(column), max(*cells, 12), break_long_words=False) or [""])
    return heads


def _tabular(table: Table, part: Part, *, beside: bool) -> list[str]:
    count, blocks = len(part.columns), len(table.sets) if beside else 1
    columns = [_stacked(lines) for lines in _heads(table, part)] * blocks
    heads = [rf"\multicolumn{{{count}}}{{c}}{{{escape(name.capitalize())} set}}" for name in table.sets]
    rules = [rf"\cmidrule(lr){{{2 + count * n}-{1 + count * (n + 1)}}}" for n in range(len(table.sets))]
    lines = [rf"\begin{{tabular}}{{@{{}}r{'c' * count * blocks}@{{}}}}", r"\toprule"]
    if beside:
        lines += [rf" & {' & '.join(heads)} \\", " ".join(rules)]
    lines += [rf"{' & '.join([_begun(table.row_label(table.definition.rows)), *columns])} \\", r"\midrule"]
    if beside:
        lines += [_line(table, part, row, table.sets) for row in table.rows]
    else:
        for number, name in enumerate(table.sets):
            lines += [r"\midrule"] * (number > 0) + [rf" & {heads[number]} \\", r"\addlinespace[2pt]"]
            lines += [_line(table, part, row, [name]) for row in table.rows]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _stacked(lines: list[str]) -> str:
    """Lines of a head above each other."""
    joined = r" \\ ".join(map(_begun, lines))
    return joined if len(lines) == 1 else rf"\shortstack{{{joined}}}"


def _begun(text: str) -> str:
    """A text at the beginning of a line: after the one before, which ends in \\\\, a bracket would be its argument."""
    return ("{}" if text.startswith(("[", "*")) else "") + escape(text)


def _line(table: Table, part: Part, row: Axis, sets: Sequence[str]) -> str:
    texts = [part.text((name, row, column)) for name in sets for column in part.columns]
    cells = [_begun(table.row_label(row)), *map(escape, texts)]
    return rf"{' & '.join(cells)} \\"
