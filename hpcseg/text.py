"""Numbers and names as people read them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def duration(seconds: float | None) -> str:
    """Seconds as text; "" for None.

    >>> duration(4), duration(200), duration(9000)
    ('4 s', '3 min', '2.5 h')
    """
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def counted(number: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(1250, "run")
    ('1 run', '1,250 runs')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells in columns; the last one as it is.

    >>> aligned([("a", "b", "c"), ("long", "", "d")])
    ['a     b  c', 'long     d']
    """
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def nearest(word: str, valid: Iterable[str]) -> str:
    """`; did you mean ...?` for a misspelt word, or the list of valid ones where nothing is near."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not close and "." not in word:
        leaves = {name.rpartition(".")[2]: name for name in words}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(word, leaves, n=1, cutoff=0.75)]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(words)}" if len(words) <= 20 else ""
