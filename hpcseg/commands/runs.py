"""status, logs, cancel, retry: what became of the runs."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from hpcseg import terminal
from hpcseg.commands.options import DEFAULT_RUNS, Json, Runs
from hpcseg.errors import BadInput
from hpcseg.screens.runs import status_tables, watch_status


def status(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Sweeps; all of them by default.", metavar="SWEEP")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds until all has ended.")] = False,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Say where every run is, and why."""
    from hpcseg.sweeps.status import read_status

    lines = read_status(runs, sweeps or ())
    if not lines:
        raise BadInput(
            f"{runs}: no sweep was applied here yet; apply one with hpcseg sweep FILE, or name another --runs"
        )
    if json:
        terminal.print_json([line.as_json() for line in lines])
    elif watch:
        watch_status(lambda: read_status(runs, sweeps or ()))
    else:
        for table in status_tables(lines):
            terminal.console().print(table)


def logs(
    run: Annotated[str, typer.Argument(help="A run's id or the beginning of it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what is added, until Ctrl-C.")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Print the output of a run's last attempt."""
    from hpcseg.sweeps.status import newest_log, select_runs

    chosen = select_runs(runs, run)
    if len(chosen) > 1:
        raise BadInput(
            f"{len(chosen)} runs match '{run}'; give more of the id: {', '.join(r.id for r in chosen[:3])} …"
        )
    path = newest_log(chosen[0])
    terminal.note(str(path))
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if not follow:
                return
            time.sleep(0.5)


def cancel(
    pattern: Annotated[
        str, typer.Argument(help="A sweep's name, a run's id, the beginning of one, or a pattern with *.")
    ],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Ask queued and running runs to save and stop; `hpcseg sweep` goes on with them."""
    from hpcseg.sweeps.status import cancel as cancel_runs

    _print_ids("cancelled", cancel_runs(runs, pattern))


def retry(
    pattern: Annotated[
        str, typer.Argument(help="A sweep's name, a run's id, the beginning of one, or a pattern with *.")
    ],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Clear the failure of failed runs, so that they count as stopped; `hpcseg sweep` then goes on with them."""
    from hpcseg.sweeps.status import retry as retry_runs

    _print_ids("cleared", retry_runs(runs, pattern))


def _print_ids(what: str, ids: list[str]) -> None:
    print(f"{what}: {', '.join(ids) or 'nothing'}")
