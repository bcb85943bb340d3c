"""keys: what can be set, and what it means."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hpcseg.commands.options import Json
from hpcseg.screens import terminal


def keys(
    pattern: Annotated[
        str | None, typer.Argument(help="A section (training), a key, a part of a name, or a pattern with *.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/keys.md, with every key.")] = False,
    json: Json = False,
) -> None:
    """Explain what sweep files and job profiles can set: type, default, unit, meaning, source.

    A line per key where standard output is no terminal.
    """
    from hpcseg.screens.keys import keys_json, keys_lines, keys_markdown, keys_tables, matching

    if markdown:
        sys.stdout.write(keys_markdown())
        return
    found = matching(pattern)
    if json:
        terminal.print_json_lines(keys_json(found))
    elif sys.stdout.isatty():
        for table in keys_tables(found):
            terminal.console().print(table)
    else:
        print("\n".join(keys_lines(found)))
