"""Numbers and names as people read them."""

from __future__ import annotations

import csv
import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PLAIN_NAME = r"^[A-Za-z0-9][\w.-]*$"  # of a sweep, a table, a figure: they become names of files
# What pydantic's kinds of errors mean to whoever writes a file.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a text in quotes",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "path": "a path in quotes",
    "missing": "is missing",
    "extra_forbidden": "is not known",
}
_AMOUNT = 'an amount of memory such as "32G" or "900M"'
_PATTERNS = {
    PLAIN_NAME: "a name of letters, digits, - _ and .",
    r"^\d+[KMGT]?B?$": _AMOUNT,
    r"^(\d+[KMGT]?B?)?$": _AMOUNT,
}
_ALIKE = 0.6
_TIED, _NAMED = 0.1, 4  # of likenesses; and how many keys are named


# C0 without tab and line break, DEL, C1; marks and controls of direction, line separators; halves of characters.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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


def standing(states: Mapping[str, int]) -> str:
    """How many runs are in each state.

    >>> standing({"done": 4, "running": 1})
    '4 done, 1 running'
    """
    return ", ".join(f"{count} {state}" for state, count in states.items())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells in columns; the last one as it is.

    >>> aligned([("a", "b", "c"), ("long", "", "d")])
    ['a     b  c', 'long     d']
    """
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def word(value: object) -> str:
    """A path or a name as a shell takes it.

    >>> word("runs"), word("my runs/a")
    ('runs', "'my runs/a'")
    """
    return shlex.quote(str(value))


def csv_rows(text: str) -> list[list[str]]:
    """Rows of a CSV file that have anything; cells are parted as its first line has it most often.

    A comma, or what spreadsheets write elsewhere, a semicolon or a tab. A mark before UTF-8 is passed over.

    >>> csv_rows("image;label\\n\\na,1.nii;b.nii\\n")
    [['image', 'label'], ['a,1.nii', 'b.nii']]

    Raises:
        csv.Error: it is none.
    """
    text = text.removeprefix("\ufeff")
    mark = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    return [row for row in csv.reader(text.splitlines(), delimiter=mark) if any(row)]


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"]), listed(["a", "b"])
    ('a, b, c and 2 more', 'a, b')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def printable(text: str) -> str:
    """Text as a terminal may have it: control characters, and those that turn its direction, as escapes.

    Titles, clipboards and what stands above can be changed by names of files, errors and logs otherwise. Line breaks
    and tabs stay.

    >>> print(printable("a\\x1b]0;title\\x07b \\u202e c"))
    a\\x1b]0;title\\x07b \\u202e c
    """
    return text if text.isascii() and text.isprintable() else _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def nearest(word: str, valid: Iterable[str]) -> str:
    """`; did you mean ...?` for a misspelt word, or the list of valid ones where nothing is near.

    Of a dotted key the last part counts as much as the whole; a key that several tables have is named with all of them.

    >>> nearest("slurm.timee", ["slurm.tier", "slurm.pack.time", "slurm.train.time"])
    "; did you mean 'slurm.pack.time' or 'slurm.train.time'?"
    """
    words = sorted(valid)
    likeness = {name: _likeness(word, name) for name in words}
    best = max(words, key=likeness.__getitem__, default="")
    if best and likeness[best] >= _ALIKE:
        close = [name for name in words if likeness[name] >= likeness[best] - _TIED and _leaf(name) == _leaf(best)]
        return f"; did you mean {' or '.join(map(repr, close[:_NAMED]))}?"
    return f"; valid: {', '.join(words)}" if len(words) <= 20 else ""


def _likeness(word: str, name: str) -> float:
    """How alike two keys are, from 0 to 1."""
    whole = difflib.SequenceMatcher(None, word, name).ratio()
    if "." not in word + name:
        return whole
    return (difflib.SequenceMatcher(None, _leaf(word), _leaf(name)).ratio() + whole) / 2


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def in_words(detail: Mapping[str, Any]) -> str:
    """What is allowed instead, of one error of pydantic: "a whole number", "greater than 0", ..."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"a text of the form {context['pattern']}")
    if kind in {"too_short", "too_long"}:
        least = kind == "too_short"
        number = context["min_length" if least else "max_length"]
        return f"a list of {'at least' if least else 'at most'} {number} (not {context['actual_length']})"
    known = _WORDS["int"] if kind == "int_from_float" else _WORDS.get(kind) or _by_type(kind)
    if known:
        return known
    return str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")


def _by_type(kind: str) -> str:
    """Words for `int_parsing`, `bool_type`, `model_attributes_type` and the like."""
    name, _, what = kind.partition("_")
    return _WORDS.get(name, "") if what in {"type", "parsing", "parsing_size", "attributes_type"} else ""
