"""collect, report: from runs to tables, figures and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.commands.options import DEFAULT_RUNS, Json, Runs
from hpcseg.errors import BadInput
from hpcseg.inference.metrics import METRICS
from hpcseg.owners import require_own_ways
from hpcseg.paths import RESULTS_FOLDER
from hpcseg.screens import terminal
from hpcseg.text import counted, word

if TYPE_CHECKING:
    from hpcseg.results.collection import Collection
    from hpcseg.results.second_process import Other
    from hpcseg.results.tables.tables import Table

PATIENCE_S = 0.5  # before progress is shown

Against = Annotated[
    str | None,
    typer.Option(help="Set published tables beside: paper, a TOML file or a folder that collect wrote."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(help=f"Tables of this metric, whatever the sweep says: {', '.join(METRICS)}; repeatable."),
]


def collect(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's name; by default the one applied last.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of the results.", metavar="DIR", file_okay=False)
    ] = None,
    against: Against = None,
    metric: Metrics = None,
    figures: Annotated[bool, typer.Option(help="Draw the figures, too.")] = True,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Write small records of the finished runs there instead, from which the tables can be made again.",
            metavar="DIR",
            file_okay=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace records of the same runs and other results.")] = False,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Collect what was measured over all runs of a sweep: tables (text, Markdown, CSV, JSON, LaTeX) and figures."""
    import json as json_module

    from hpcseg.results.export import summary, write_collection
    from hpcseg.results.second_process import second_process
    from hpcseg.results.tables.machine_readable import to_json
    from hpcseg.results.tables.rendering import overall, to_rich
    from hpcseg.results.tables.tables import improved_in_all

    if records is not None and (json or to is not None):
        raise BadInput("--records writes no tables; leave --to and --json out, and collect from the records then")
    with second_process(runs) as other:
        collection, tables = _collected(runs, sweep, against, metric, other)
        if records is not None:
            _archive(collection, records, force=force)
            return
        folder = to or _own_results(runs, collection.sweep)
        with terminal.counting("collecting", PATIENCE_S) as progress:
            paths = write_collection(
                collection,
                folder,
                tables=tables,
                figures=figures,
                note=terminal.note,
                progress=progress,
                other=other,
            )
    if json:
        whole = summary(collection, tables) | {
            "tables": [json_module.loads("".join(to_json(table))) for table in tables]
        }
        terminal.print_json(whole | {"files": [str(path) for path in paths]})
        return
    for table in tables:
        terminal.console().print(to_rich(table))
    if improved := improved_in_all(tables):
        print(overall(improved))
    if collection.missing:
        print(f"{len(collection.missing)} of {len(collection.runs)} runs have no result yet")
    print(f"tables and figures in {folder}:" if figures else f"tables in {folder}:")
    for path in paths:
        if path.suffix in {".md", ".png"}:
            print(f"  {path}")


def _archive(collection: Collection, records: Path, *, force: bool) -> None:
    from hpcseg.results.archive import archive

    done = archive(collection, records, force=force)
    replaced = f", {len(done.replaced)} replaced" if done.replaced else ""
    print(f"{records}: {counted(len(done.new), 'new record')}{replaced}, {len(done.same)} as they were")
    if left := len(collection.missing) + len(collection.stale):
        print(f"{left} of {len(collection.runs)} runs have no result yet, or a stale one")
    print(f"hpcseg collect {word(collection.sweep)} --runs {word(records)} --to DIR makes the tables again")


def report(
    sweep: Annotated[str | None, typer.Argument(help="A sweep's name; by default the one applied last.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="The page, or a folder for it; by default report.html among the results.", metavar="FILE"
        ),
    ] = None,
    against: Against = None,
    metric: Metrics = None,
    force: Annotated[bool, typer.Option(help="Replace a file that is no report of this sweep.")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write one HTML page about a sweep: tables, figures, runs, cost, data, configuration, environment.

    The page is complete in itself and loads nothing; an earlier report of the same sweep is replaced.
    """
    from hpcseg.results.page.report import write_report
    from hpcseg.results.second_process import second_process

    with second_process(runs) as other:
        collection, tables = _collected(runs, sweep, against, metric, other)
    path = to or _own_results(runs, collection.sweep) / "report.html"
    with terminal.counting("writing the report", PATIENCE_S) as progress:
        written = write_report(collection, path, tables=tables, force=force, note=terminal.note, progress=progress)
    if collection.missing:
        print(f"{len(collection.missing)} of {len(collection.runs)} runs have no result yet")
    print(written)


def _own_results(runs: Path, sweep: str) -> Path:
    """Where results go that nobody asked for elsewhere.

    Raises:
        BadInput: others may write there.
    """
    folder = runs / RESULTS_FOLDER / sweep
    require_own_ways(runs, [folder], "name a folder of your own with --to")
    return folder


def _collected(
    runs: Path, sweep: str | None, against: str | None, metric: list[str] | None, other: Other
) -> tuple[Collection, list[Table]]:
    """What was measured and its tables; a note of each file that could not be used."""
    from hpcseg.results.collect import collect as collect_runs
    from hpcseg.results.export import make_tables
    from hpcseg.results.tables.published import read_publication

    beside = None if against is None else read_publication(against)
    with terminal.counting("reading results", PATIENCE_S) as progress:
        collection = collect_runs(runs, sweep, progress, other)
        tables = make_tables(collection, metrics=metric or (), beside=beside)
    for problem in collection.problems:
        terminal.note(problem)
    if unsealed := len(collection.unsealed):
        terminal.note(f"{counted(unsealed, 'result')} of an earlier hpcseg: no seal says whether it was changed")
    return collection, tables
