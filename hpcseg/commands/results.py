"""collect: from runs to tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcseg import terminal
from hpcseg.commands.options import DEFAULT_RUNS, Json, Runs


def collect(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's name; by default the one applied last.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder of the results.", metavar="DIR")] = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Collect DSC over all runs of a sweep: tables (text, Markdown, CSV, JSON, LaTeX) and figures."""
    import json as json_module

    from hpcseg.results.collect import collect as collect_runs
    from hpcseg.results.export import summary, write_collection
    from hpcseg.results.rendering import to_json, to_rich
    from hpcseg.results.tables import build_table

    collection = collect_runs(runs, sweep)
    tables = [build_table(definition, collection) for definition in collection.tables]
    folder = to or runs / "results" / collection.sweep
    paths = write_collection(collection, folder, report=terminal.note)
    for problem in collection.problems:
        terminal.note(problem)
    if json:
        whole = summary(collection) | {"tables": [json_module.loads(to_json(table)) for table in tables]}
        terminal.print_json(whole | {"files": [str(path) for path in paths]})
        return
    for table in tables:
        terminal.console().print(to_rich(table))
    if collection.missing:
        print(f"{len(collection.missing)} of {len(collection.runs)} runs have no result yet")
    print(f"tables and figures in {folder}:")
    for path in paths:
        if path.suffix in {".md", ".png"}:
            print(f"  {path}")
