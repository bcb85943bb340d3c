"""TOML files whose errors name the file, the line and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpcseg.errors import BadInput
from hpcseg.text import in_words, nearest

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_AT_LINE = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True)
class TomlFile:
    """A parsed file that remembers its text, so that a key's line can be named."""

    path: Path
    text: str
    data: dict[str, Any]

    def where(self, table: str, index: int, key: str) -> str:
        """`path:line` of `key` in the `index`-th `[table]` or `[[table]]`; `path` alone if no line sets it.

        `key` is dotted. Where no line sets the key itself, the line of its longest parent is named, then that of
        the table's header.
        """
        best, line = -1, 0
        parts = _split(key)
        for number, (name, count), path in _keys(self.text):
            if (name, count) != (table, index):
                continue
            shared = _common(parts, path)
            if shared in (len(path), len(parts)) and shared > best:
                best, line = shared, number
        return f"{self.path}:{line}" if line else str(self.path)


def read_toml(path: Path) -> TomlFile:
    """Parse a TOML file.

    Raises:
        BadInput: the file is missing, unreadable or not TOML; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' mark before it is passed over
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    try:
        return TomlFile(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _AT_LINE.search(message)
        if place is None:
            raise BadInput(f"{path}: not valid TOML: {message}") from None
        line, column = place.groups()
        why = _quotes(text.split("\n")[int(line) - 1]) or f"{message[: place.start()]} (column {column})"
        raise BadInput(f"{path}:{line}: not valid TOML: {why}") from None
    except (RecursionError, ValueError) as error:  # brackets in brackets, a number of thousands of digits
        raise BadInput(f"{path}: not valid TOML ({str(error).split(';')[0]})") from None


def _quotes(line: str) -> str:
    """What is wrong with the quotes of a line that is not TOML; "" where nothing is seen.

    >>> _quotes('data.dataset = "Task04'), _quotes("strategy = baseline"), _quotes("fold = [0, 1")
    ('a quote (") is missing', 'text needs quotes: "baseline"', '')
    """
    if line.count('"') % 2:
        return 'a quote (") is missing'
    bare = re.fullmatch(r"\s*[\w.]+\s*=\s*([A-Za-z][\w./ -]*?)\s*(?:#.*)?", line)
    return f'text needs quotes: "{bare[1]}"' if bare and bare[1] not in {"true", "false"} else ""


def explain(error: ValidationError, valid: Iterable[str]) -> tuple[str, str]:
    """The first wrong key of a pydantic error, and in words what is wrong with it and what is allowed.

    `valid` are the dotted keys of the model. The alternatives of a union are joined by "or".
    """
    known = set(valid)
    problems: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for detail in error.errors():
        key = _known_prefix([str(part) for part in detail["loc"]], known)
        if detail["type"] == "extra_forbidden":
            key = ".".join(str(part) for part in detail["loc"])
            return key, f"unknown key '{key}'{nearest(key, known)}"
        short = detail["type"] == "missing" and isinstance(detail["loc"][-1], int)
        if detail["type"] == "missing" and not short:
            return key, f"{key} is missing"
        message = f"a list of {int(detail['loc'][-1]) + 1} or more" if short else in_words(detail)
        problems.setdefault(key, [])
        if message not in problems[key]:
            problems[key].append(message)
        values[key] = None if detail["type"] == "value_error" else detail["input"]
    key = next(iter(problems))
    allowed = " or ".join(problems[key])
    if values[key] is None:
        return key, f"{key}: {allowed}" if key and not allowed.startswith(key) else allowed
    return key, f"{key} = {values[key]!r} is not allowed: should be {allowed}"


def _known_prefix(loc: list[str], known: set[str]) -> str:
    """The longest beginning of a pydantic location that is a key or a section."""
    for length in range(len(loc), 0, -1):
        key = ".".join(loc[:length])
        if key in known or any(name.startswith(f"{key}.") for name in known):
            return key
    return ""


def _keys(text: str) -> Iterator[tuple[int, tuple[str, int], tuple[str, ...]]]:
    """Line number, (top-level table, its index) and key path below it, of every header and key of a TOML text."""
    table, index, below = "", 0, ()  # type: str, int, tuple[str, ...]
    counts: dict[str, int] = {}
    quoted = False
    for number, line in enumerate(text.splitlines(), 1):
        inside = quoted
        if (line.count('"""') + line.count("'''")) % 2:
            quoted = not quoted
        if inside:
            continue
        if header := _HEADER.match(line):
            table, *rest = _split(header[2])
            below = tuple(rest)
            if header[1] == "[[" and not rest:
                counts[table] = counts.get(table, -1) + 1
            index = counts.get(table, 0)
            yield number, (table, index), below
        elif key := _KEY.match(line):
            path = _split(key[1])
            if table:
                yield number, (table, index), (*below, *path)
            else:
                yield number, (path[0], 0), path[1:]


def _split(dotted: str) -> tuple[str, ...]:
    parts = re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", dotted)
    return tuple(piece for part in parts for piece in part.strip("\"'").split("."))


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
