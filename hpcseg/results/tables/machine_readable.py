"""A table for programs: CSV with a line per case, per run and per cell, and JSON with everything. Pure."""

from __future__ import annotations

import csv
import functools
import io
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json as to_json_bytes

from hpcseg.results.tables.axes import label
from hpcseg.results.tables.cells import Cell, Contrast, Key, Replicate
from hpcseg.results.tables.rendering import remarks
from hpcseg.results.tables.statistics import Comparison
from hpcseg.results.tables.tables import Table
from hpcseg.study.tables import Axis

_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")


def to_csv(table: Table) -> Iterator[str]:
    """In parts: one line per set, row, column, replicate and case; a missing run has a line without case and value."""
    place = [table.definition.rows, table.definition.columns, *table.definition.over]
    head = ["set", *place, "case", table.metric.key, "status", "run"]
    yield to_lines(head, [])
    named = functools.cache(lambda case: _line(case, ""))  # with the comma behind it
    placed = _placing(table)
    for key, cell in _ordered(table):
        runs, stale = {replicate: run for run, replicate in cell.runs.items()}, set(cell.stale)
        numbers = iter(_numbers(cell.flat, repr))
        for one, cases in cell.values.items():
            begin = placed(key, one)
            end = _line("", "stale" if runs[one] in stale else "present", runs[one]) + "\n"
            yield f"{begin}{f'{end}{begin}'.join(map(operator.add, map(named, cases), numbers))}{end}"
        yield "".join(f"{placed(key, one)}{_line('', '', 'missing', runs[one])}\n" for one in cell.missing)


def _line(*cells: Any) -> str:
    return to_lines(cells, [])[:-1]


def _numbers(values: Sequence[float], rare: Callable[[float], str]) -> list[str]:
    """The shortest text of each, as `repr` has it, in a quarter of its time; `rare` is asked where theirs may differ.

    >>> _numbers([0.1, 1e-05, 1e16], repr)
    ['0.1', '1e-05', '1e+16']
    """
    texts = to_json_bytes(values)[1:-1].decode().split(",")
    sizes = np.abs(values)
    for place in np.flatnonzero(~((sizes >= 1e-4) & (sizes < 1e15) | (sizes == 0))).tolist():
        texts[place] = rare(values[place])
    return texts


def to_runs_csv(table: Table) -> str:
    """One line per set, row, column and replicate: the run, its mean and SD over cases."""
    place = [table.definition.rows, table.definition.columns, *table.definition.over]
    head = ["set", *place, "run", "status", "cases", "mean", "sd"]
    placed, lines = _placing(table), [to_lines(head, [])]
    for key, cell in _ordered(table):
        runs = {replicate: run for run, replicate in cell.runs.items()}
        missing, stale = set(cell.missing), set(cell.stale)
        for one in cell.replicates:
            state = "missing" if one in missing else "stale" if runs[one] in stale else "present"
            cases = len(cell.values.get(one, ()))
            measured = (cell.replicate_means.get(one), cell.replicate_sds.get(one))
            mean, sd = ("" if value is None else repr(value) for value in measured)
            lines.append(f"{placed(key, one)}{_line(runs[one])},{state},{cases},{mean},{sd}\n")
    return "".join(lines)


def to_summary_csv(table: Table) -> str:
    """One line per set, row and column: the cell, its contrast with the baseline, and what stands beside it."""
    cells = [_summary(table, key, cell) for key, cell in _ordered(table)]
    return to_lines(list(cells[0]), (cell.values() for cell in cells)) if cells else ""


def to_json(table: Table) -> Iterator[str]:
    """In parts: cells with their values, replicates' means and missing runs, contrasts, notes; a cell in a line."""
    better, compared = table.improved
    beside = table.beside
    document = {
        "table": table.definition.model_dump(),
        "measure": {"key": table.metric.key, "unit": table.metric.unit, "better": table.metric.better},
        "rows": table.rows,
        "columns": table.columns,
        "baseline": table.baseline,
        "improved": better,
        "compared": compared,
        "mixed": table.mixed.lines,
        "beside": beside and {"label": beside.label, "table": beside.table, "improved": beside.improved},
        "remarks": remarks(table),
    }
    yield f'{json.dumps(document, indent=1, ensure_ascii=False)[:-2]},\n "cells": [\n'
    for number, (key, cell) in enumerate(_ordered(table)):
        yield ",\n" * (number > 0) + _whole(table, key, cell)
    yield "\n ]\n}\n"


_dump = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _whole(table: Table, key: Key, cell: Cell) -> str:
    """All of a cell, on a line."""
    whole = _summary(table, key, cell) | {
        "missing": [list(replicate) for replicate in cell.missing],
        "stale": list(cell.stale),
        "odd": list(cell.odd),
        "replicate_means": [
            {"replicate": list(replicate), "mean": mean} for replicate, mean in cell.replicate_means.items()
        ],
    }
    named = functools.cache(lambda case: f'{_dump(case)}, "{table.metric.key}": ')
    numbers, values = iter(_numbers(cell.flat, _dump)), []
    for replicate, cases in cell.values.items():
        begin = f'{{"replicate": {_dump(replicate)}, "case": '
        values.append(f"{begin}{f'}}, {begin}'.join(map(operator.add, map(named, cases), numbers))}}}")
    return f'{_dump(whole)[:-1]}, "values": [{", ".join(values)}]}}'


def _summary(table: Table, key: Key, cell: Cell) -> dict[str, Any]:
    name, row, column = key
    pair = table.beside.values.get(key) if table.beside else None
    return {
        "set": name,
        table.definition.rows: plain(row),
        table.definition.columns: plain(column),
        "mean": cell.mean,
        "sd": cell.sd,
        "scores": len(cell.flat),
        "undefined": cell.undefined,
        "runs_expected": cell.expected,
        "runs_present": cell.present,
        "runs_stale": len(cell.stale),
        "runs_made_otherwise": len(cell.odd),
        "sd_of_run_means": cell.sd_of_means,
        "mean_of_run_sds": cell.mean_of_sds,
        "minutes": cell.minutes,
        **_contrast(table.contrasts.get(key)),
        "beside_mean": pair and pair[0],
        "beside_sd": pair and pair[1],
        "beside_difference": None if pair is None or cell.mean is None else cell.mean - pair[0],
    }


def _contrast(contrast: Contrast | None) -> dict[str, Any]:
    """A contrast's numbers; the same keys where there is none."""
    by_case, by_run = (contrast.by_case, contrast.by_replicate) if contrast else (None, None)
    low, high = (contrast and contrast.interval) or (None, None)
    return {
        "pairs": contrast and contrast.pairs,
        "difference": contrast and contrast.mean,
        "difference_sd": contrast and contrast.sd,
        "improved": contrast and contrast.improved,
        **_compared("by_case", by_case, contrast.p if contrast else None),
        "difference_of_run_means": by_run and by_run.mean,
        "difference_of_run_means_sd": by_run and by_run.sd,
        **_compared("by_run", by_run, contrast.replicate_p if contrast else None),
        "by_case_and_run_low": low,
        "by_case_and_run_high": high,
    }


def _compared(name: str, comparison: Comparison | None, adjusted: float | None) -> dict[str, Any]:
    """What is known with cases, or with runs, as units."""
    low, high = (comparison and comparison.interval) or (None, None)
    return {
        f"{name}_units": comparison and comparison.units,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_p": comparison and comparison.p,
        f"{name}_p_holm": adjusted,
    }


def _ordered(table: Table) -> list[tuple[Key, Cell]]:
    keys = [(name, row, column) for name in table.sets for row in table.rows for column in table.columns]
    return [(key, table.cells[key]) for key in keys if key in table.cells]


def _placing(table: Table) -> Callable[[Key, Replicate], str]:
    """What gives the beginning of a line, where in the table it belongs; cells and replicates are written once."""
    over = len(table.definition.over)
    begin = functools.cache(lambda values: "".join(_line(plain(value), "") for value in values))
    return lambda key, replicate: f"{begin(key)}{begin(replicate[:over])}"


def plain(value: Axis) -> str | int | float:
    """An axis' value as CSV and JSON have it."""
    return value if isinstance(value, str | int | float) else label(value)


def to_lines(head: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    """CSV; texts that a spreadsheet would compute begin with an apostrophe."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(
        # Hundreds of thousands of cells are numbers, or begin as no formula does.
        [inert(cell) if isinstance(cell, str) and not cell[:1].isalnum() else cell for cell in line]
        for line in (head, *lines)
    )
    return stream.getvalue()


def inert(cell: Any) -> Any:
    """A cell that no spreadsheet computes; numbers stay.

    >>> inert("=HYPERLINK(1)"), inert("-0.5"), inert("case_1")
    ("'=HYPERLINK(1)", '-0.5', 'case_1')
    """
    if isinstance(cell, str) and cell.lstrip(" ")[:1] in _FORMULA:
        try:
            float(cell)
        except ValueError:
            return f"'{cell}"
    return cell
