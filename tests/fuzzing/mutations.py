"""Damage to files, drawn at random: to bytes whatever they mean, and to what JSON, lines and TOML hold.

A mutation is a function of a generator of random numbers and a file's content; it returns another content.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

_DEEP = 100_000  # brackets in brackets: more than a parser's stack
_LONG = 100_000
STRINGS = (
    "",
    "..",
    "../../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\0b",
    "a\nb\r",
    "\x1b]0;title\x07\x1b[2J",
    "\u202eabc",
    "\ud800",
    "=1+1",
    "$\\frac$",
    "%s%n",
    "nan",
    "1e999",
    "x" * _LONG,
    "x" * 300,
    "é" * 200,
)
NUMBERS = (0, -1, 1, 255, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e38, 1e308, -1e308)
ODD: tuple[Any, ...] = (
    math.nan,
    math.inf,
    -math.inf,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": None},
    [1, 2, 3],
    {"a": {"b": 1}},
)


def flipped(draw: random.Random, content: bytes) -> bytes:
    """A few bits are other ones."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwritten(draw: random.Random, content: bytes) -> bytes:
    """A stretch is zeros, ones, noise, or what is no UTF-8."""
    size = draw.choice((1, 2, 4, 8, 64, 512))
    kinds = (b"\0" * size, b"\xff" * size, draw.randbytes(size), b"\xc3\x28" * (size // 2 or 1))
    at = _place(draw, content)
    return content[:at] + draw.choice(kinds)[: len(content) - at] + content[at + size :]


def cut(draw: random.Random, content: bytes) -> bytes:
    """The end is missing, or everything."""
    return content[: draw.choice((0, 1, max(len(content) - 1, 0), _place(draw, content), _place(draw, content)))]


def grown(draw: random.Random, content: bytes) -> bytes:
    """Something was appended, or put in front or between."""
    extra = draw.choice((b"\0", b"\n", b"\xff", b"}", b" ", b"\xef\xbb\xbf", b"\0" * 4096, draw.randbytes(20)))
    at = draw.choice((0, len(content), _place(draw, content)))
    return content[:at] + extra + content[at:]


def rearranged(draw: random.Random, content: bytes) -> bytes:
    """A stretch is missing, there twice, or somewhere else."""
    first, second = sorted((_place(draw, content), _place(draw, content)))
    second = min(second, first + draw.choice((1, 4, 16, 64, 4096)))
    part, rest = content[first:second], content[:first] + content[second:]
    at = _place(draw, rest)
    return draw.choice((rest, content[:second] + part + content[second:], rest[:at] + part + rest[at:]))


def another_digit(draw: random.Random, content: bytes) -> bytes:
    """One digit is another one."""
    places = [found.start() for found in re.finditer(rb"[0-9]", content)]
    if not places:
        return flipped(draw, content)
    at = draw.choice(places)
    return content[:at] + bytes([draw.choice([d for d in b"0123456789" if d != content[at]])]) + content[at + 1 :]


BYTES: tuple[Mutation, ...] = (flipped, overwritten, cut, grown, rearranged, another_digit)


def _place(draw: random.Random, content: bytes) -> int:
    return draw.randrange(len(content) + 1)


def json_text(value: Any, indent: int | None = 1) -> bytes:
    """JSON as hpcseg writes it; what Python can hold and JSON cannot, too. `Raw` is written as it is."""
    raws: list[str] = []

    def marked(part: Any) -> Any:
        if isinstance(part, Raw):
            raws.append(part.text)
            return f"\x01{len(raws) - 1}\x01"
        if isinstance(part, dict):
            return {key: marked(item) for key, item in part.items()}
        return [marked(item) for item in part] if isinstance(part, list | tuple) else part

    text = json.dumps(marked(value), indent=indent, ensure_ascii=False)
    text = re.sub(r'"\\u0001(\d+)\\u0001"', lambda found: raws[int(found[1])], text)
    return text.encode(errors="surrogatepass")


class Raw:
    """A text in place of a value."""

    def __init__(self, text: str) -> None:
        self.text = text


def hostile(draw: random.Random, before: Any = None) -> Any:
    """A value that is seldom what a reader expects; often one of the kind that was there."""
    if isinstance(before, bool) or before is None or draw.random() < 0.4:
        return draw.choice((*STRINGS, *NUMBERS, *ODD, Raw("[" * _DEEP + "]" * _DEEP), Raw("-"), Raw("1" * 5000)))
    if isinstance(before, int | float):
        kin = (-before, before + 1, before * 1e30 if abs(before) < 1e200 else 0.0, -before - 0.5, str(before), [before])
        return draw.choice((*kin, *NUMBERS, math.nan, math.inf, -math.inf))
    if isinstance(before, str):
        return draw.choice((*STRINGS, before.upper(), before + "x", before[:-1], [before], {"a": before}, 7))
    if isinstance(before, list):
        item = before[0] if before else 1
        return draw.choice((before * 2, before[1:], before[::-1], [*before, None], [[before]], [item] * 3000, {}))
    if not isinstance(before, dict):
        return draw.choice((*STRINGS, *NUMBERS, *ODD))
    return draw.choice(([], [before], {}, None, {**before, "unknown": 1}, dict.fromkeys(before)))


def changed_value(draw: random.Random, value: Any) -> Any:
    """A copy of a JSON value of which one part is another one, missing, renamed, doubled or in another's place."""
    places = list(_places(value))
    if not places:
        return hostile(draw, value)
    path = draw.choice(places)
    kind = draw.choice(("replace", "replace", "replace", "replace", "delete", "swap", "rename", "double", "root"))
    if kind == "root":
        return hostile(draw, value)
    made = json.loads(json.dumps(value))
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    if kind == "replace":
        holder[key] = hostile(draw, holder[key])
    elif kind == "delete":
        del holder[key]
    elif kind == "swap":
        other = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    elif isinstance(holder, dict):
        name = draw.choice((key.upper(), key[:-1], key + "s", *STRINGS))
        part = holder[key] if kind == "double" else holder.pop(key)
        holder[name] = part
    else:
        holder.insert(key, holder[key])
    return made


def _places(value: Any, path: tuple[Any, ...] = ()) -> Sequence[tuple[Any, ...]]:
    """Where every part of a value is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, part in items:
        found += [(*path, key), *_places(part, (*path, key))]
    return found


def changed_json(draw: random.Random, content: bytes) -> bytes:
    """One part of a JSON file is another one; or a key stands twice."""
    value = json.loads(content)
    if isinstance(value, dict) and value and draw.random() < 0.1:
        key = draw.choice(list(value))
        text = json_text(value).rstrip()[:-1] + b"," + json_text({key: hostile(draw, value[key])})[1:]
        return text + b"\n"
    return json_text(changed_value(draw, value), 1 if b"\n " in content else None) + b"\n"


JSON: tuple[Mutation, ...] = (*BYTES, *(changed_json,) * 4)


def changed_lines(draw: random.Random, content: bytes) -> bytes:
    """Of a file of lines: one is missing, there twice, elsewhere, glued to the next or torn."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return grown(draw, content)
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.choice(("delete", "double", "swap", "glue", "tear", "blank"))
    if kind == "delete":
        del lines[at]
    elif kind == "double":
        lines.insert(other, lines[at])
    elif kind == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "glue":
        lines[at] = lines[at].rstrip(b"\r\n")
    elif kind == "tear":
        lines[at] = lines[at][: _place(draw, lines[at])] + draw.choice((b"", b"\n"))
    else:
        lines.insert(at, draw.choice((b"\n", b"   \n", b"\0\n", b"null\n", b"[]\n", b"{}\n", b"7\n")))
    return b"".join(lines)


def changed_json_line(draw: random.Random, content: bytes) -> bytes:
    """One part of the JSON in one line is another one."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json_text(changed_value(draw, json.loads(lines[at])), None)
    return b"\n".join(lines) + b"\n"


_TOML = (
    *("nan", "inf", "-inf", "-1", "0", "1", "2.5", "1e400", "9" * 30, "9" * 5000, "true", "''", '""', "[]", "{}"),
    *("[[]]", "[[[1]]]", "1979-05-27", "07:32:00", "'../../x'", "'/etc/passwd'", "{a = 1}", "[1, 'a', {}]", "0x7f"),
    *('"\\u0000"', '"\\u001b[2J"', '"a\\nb"', '"$\\\\frac$"', "[" * 3000 + "]" * 3000, "'" + "x" * _LONG + "'", "-"),
    *("'all'", "['a', 'b']", "[1, 2]", "[[1], [2]]", "[0.5]", "'''\na\n'''", "[nan]", "[-1]", "[9223372036854775808]"),
)
_LINE = re.compile(r"^(\s*[^#=\[\]]+?)\s*=\s*(.+)$")


def changed_toml(draw: random.Random, content: bytes) -> bytes:
    """One line of a TOML file has another value, key or table, or stands elsewhere."""
    lines = content.decode().split("\n")
    at = draw.choice([n for n, line in enumerate(lines) if line.strip()])
    found = _LINE.match(lines[at])
    kind = draw.choice(("value", "value", "value", "value", "key", "line"))
    if kind == "line" or (found is None and kind != "key"):
        return changed_lines(draw, content)
    if found is None:
        lines[at] = draw.choice((lines[at].upper(), f"[{lines[at]}]", lines[at][1:], "[x]", "[a.b.c]", "[[run]]"))
    elif kind == "value":
        lines[at] = f"{found[1]} = {draw.choice(_TOML)}"
    else:
        names = (found[1] + "x", found[1][:-1] or "y", f"a.{found[1]}", f"{found[1]}.b", '""', '"a\\nb"', '"\\u001b"')
        lines[at] = f"{draw.choice(names)} = {found[2]}"
    return "\n".join(lines).encode()
