"""Every key that a user may set, as `hpcseg keys` and docs/keys.md show it: both from what stands beside each key."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpcseg.config import key_groups
from hpcseg.errors import BadInput
from hpcseg.sections import Group, Key, Section, groups_of, toml_text
from hpcseg.study.tables import FigureDefinition, GridHeading, Heading, TableDefinition
from hpcseg.submit.profile import Profile
from hpcseg.text import aligned

if TYPE_CHECKING:
    from rich.table import Table

_PLACES = {
    "run": "In [run] and [[grid]] of a sweep file, and with --set",
    "sweep": "In the other tables of a sweep file",
    "profile": "In a job profile",
}
_PAGE = """# Every key

What `hpcseg keys` says: `make keys` writes this page from the text beside each key's definition. A source is a section
of the paper, or the reason why hpcseg chose so where the paper is silent, or the option of sbatch that the key stands
for; [fidelity.md](fidelity.md) has the longer reasons."""


def every_group() -> Mapping[str, tuple[Group, ...]]:
    """The groups of keys by where they stand: run (what a run is), sweep (how runs are laid out), profile (of jobs)."""
    tables: dict[str, type[Section]] = {
        "sweep": Heading,
        "grid": GridHeading,
        "table": TableDefinition,
        "figure": FigureDefinition,
    }
    return {
        "run": tuple(key_groups()),
        "sweep": tuple(group for name, model in tables.items() for group in groups_of(model, name)),
        "profile": tuple(groups_of(Profile)),
    }


def matching(pattern: str | None) -> Mapping[str, tuple[Group, ...]]:
    """The groups with the keys that a pattern means: a section, a key, else a glob or a part of a name; None: all.

    Raises:
        BadInput: no key; with the names that are near.
    """
    places = every_group()
    if pattern is None:
        return places
    names = [key.name for groups in places.values() for group in groups for key in group.keys]
    chosen = {name for name in names if name == pattern or name.startswith(f"{pattern}.")}
    chosen = chosen or {name for name in names if fnmatch.fnmatchcase(name, pattern) or pattern in name}
    if not chosen:
        raise BadInput(f"no key matches '{pattern}'; {_near(pattern, names)}")
    found = {}
    for place, groups in places.items():
        kept = [replace(group, keys=tuple(key for key in group.keys if key.name in chosen)) for group in groups]
        found[place] = tuple(group for group in kept if group.keys)
    return found


def keys_json(places: Mapping[str, Sequence[Group]]) -> list[dict[str, Any]]:
    """One object per key; `file` says where it stands (run, sweep, profile), and "" as unit that it has none."""
    return [
        {"key": key.name, "file": place, "type": key.kind, "default": None if key.default is ... else key.default}
        | {"unit": key.unit, "source": key.source, "description": key.description}
        for place, groups in places.items()
        for group in groups
        for key in group.keys
    ]


def keys_tables(places: Mapping[str, Sequence[Group]]) -> Iterator[Table]:
    """A table of each section for rich, readable at 80 columns; keys are named within their section."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    for group in (group for groups in places.values() for group in groups):
        title = f"[bold]{escape(_header(group))}[/] " if group.name else ""
        table = Table(title=f"{title}{escape(group.about)}", title_justify="left", title_style="", box=SIMPLE_HEAD)
        table.add_column("key", style="cyan", no_wrap=True)
        table.add_column("default", overflow="fold", max_width=15)
        table.add_column("unit", max_width=10)
        table.add_column("meaning, type, source", ratio=1)
        for key in group.keys:
            meaning = f"{escape(key.description)}\n[dim]{escape(f'{key.kind} · {key.source}')}[/]"
            table.add_row(key.name.rpartition(".")[2], escape(_default(key)), key.unit, meaning)
        yield table


def keys_lines(places: Mapping[str, Sequence[Group]]) -> list[str]:
    """A line of each key, for pipes: name, default and unit in columns, then meaning, type and source."""
    keys = [key for groups in places.values() for group in groups for key in group.keys]
    return aligned(
        [(key.name, _default(key), key.unit, f"{key.description} · {key.kind} · {key.source}") for key in keys]
    )


def keys_markdown() -> str:
    """The text of docs/keys.md."""
    lines = [_PAGE]
    for place, groups in every_group().items():
        lines += ["", f"## {_PLACES[place]}"]
        for group in groups:
            lines += ["", *([f"### `{_header(group)}`", ""] if group.name else []), group.about, ""]
            lines += ["| key | default | unit | type | meaning | source |", "| --- | --- | --- | --- | --- | --- |"]
            for key in group.keys:
                cells = (f"`{key.name}`", f"`{_default(key)}`", key.unit, key.kind, key.description, key.source)
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _header(group: Group) -> str:
    """The header of a section's table as TOML writes it; there may be several of a grid, a table, a figure."""
    return f"[[{group.name}]]" if group.name in {"grid", "table", "figure"} else f"[{group.name}]"


def _default(key: Key) -> str:
    if key.default is ...:
        return "required"
    return "–" if key.default is None else toml_text(key.default)


def _near(pattern: str, names: Sequence[str]) -> str:
    """The names that are near a word, by themselves or by their last part; the sections where none is."""
    words = {name.rpartition(".")[2] for name in names} | set(names)
    close = set(difflib.get_close_matches(pattern, sorted(words), n=5, cutoff=0.6))
    near = [name for name in names if close & {name, name.rpartition(".")[2]}]
    if near:
        return f"near: {', '.join(near[:5])}"
    return f"sections: {', '.join(dict.fromkeys(name.partition('.')[0] for name in names if '.' in name))}"
