"""status, watch, logs, cancel, retry: what became of the runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hpcseg.commands.options import DEFAULT_RUNS, Json, Runs
from hpcseg.errors import BadInput
from hpcseg.screens import terminal
from hpcseg.text import printable

Pattern = Annotated[str, typer.Argument(help="A sweep's name, a run's id, the beginning of one, or a pattern with *.")]


def status(
    sweeps: Annotated[list[str] | None, typer.Argument(help="Sweeps; all of them by default.", metavar="SWEEP")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds until all has ended.")] = False,
    why: Annotated[
        str | None, typer.Option("--why", metavar="RUN", help="Everything that is known about one run.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List every run, however many there are.")] = False,
    totals: Annotated[bool, typer.Option("--totals", help="Only the totals.")] = False,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Say where every run is, and why."""
    from hpcseg.runs.ends import Ends
    from hpcseg.runs.status import RunStatus, Totals, add_up, read_status
    from hpcseg.screens.status_tables import print_status, watch_status, why_lines

    if why is not None:
        from hpcseg.runs.why import explain

        known = explain(runs, why)
        if json:
            terminal.print_json(known)
        else:
            print(printable("\n".join(why_lines(known))))
        return
    ends = Ends()

    def read() -> tuple[list[RunStatus], Totals]:
        lines = read_status(runs, sweeps or (), ends)
        if not lines:
            raise BadInput(
                f"{runs}: no sweep was applied here yet; apply one with hpcseg sweep FILE, or name another --runs"
            )
        return lines, add_up(lines)

    if watch and json:
        raise BadInput("--watch draws again and again, and --json prints once; leave one of them out")
    if watch:
        with terminal.quiet_interrupt():
            watch_status(read)
        return
    lines, sums = read()
    if json and totals:
        terminal.print_json(vars(sums))
    elif json:
        terminal.print_json_lines([vars(line) for line in lines])
    else:
        print_status([] if totals else lines, sums, every=every)


def watch(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="Runs or sweeps, as for cancel; by default all that train just now.", metavar="RUN"),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Draw the learning curves of runs, and draw them anew with every epoch; q or Ctrl-C ends.

    Where the output is no terminal, a line for each epoch is printed.
    """
    from hpcseg.screens.plots import watch_curves
    from hpcseg.training.curves import read_curves

    found, goes_on = read_curves(runs, patterns or ())
    if not (found or goes_on):
        raise BadInput(f"{runs}: no run trains or waits to; name those to be drawn: hpcseg watch RUN")
    with terminal.quiet_interrupt():
        watch_curves(lambda: read_curves(runs, patterns or ()))


def logs(
    run: Annotated[str, typer.Argument(help="A run's id or the beginning of it.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added, over all attempts, until the run ends.")
    ] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Print the output of a run's last attempt."""
    from hpcseg.runs.follow import follow as follow_run
    from hpcseg.runs.follow import write_output
    from hpcseg.runs.selection import select_run

    chosen = select_run(runs, run)
    if follow:
        with terminal.quiet_interrupt():
            follow_run(chosen, _write, terminal.note)
        return
    write_output(chosen, _write, terminal.note)


def cancel(pattern: Pattern, runs: Runs = DEFAULT_RUNS) -> None:
    """Ask queued and running runs to save and stop; `hpcseg sweep` goes on with them.

    Of a sweep, runs that other applied sweeps need are left, and named.
    """
    from hpcseg.submit.actions import cancel as cancel_runs

    _print_ids("cancelled", cancel_runs(runs, pattern, terminal.note))


def retry(
    pattern: Pattern,
    cause: Annotated[
        str, typer.Option(help="Only runs that ended by this: memory, node, python, cuda-memory, disk, input, …")
    ] = "",
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Clear the failure of failed runs, so that they count as stopped; `hpcseg sweep` then goes on with them."""
    from hpcseg.submit.actions import retry as retry_runs

    freed = retry_runs(runs, pattern, cause, terminal.note)
    _print_ids("cleared", freed)
    if freed:
        print("the next hpcseg sweep submits them again, with whole budgets")


def _print_ids(what: str, ids: list[str]) -> None:
    few = ids if len(ids) <= 20 else [*ids[:20], f"and {len(ids) - 20} more"]
    print(f"{what}: {', '.join(few) or 'nothing'}")


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()
