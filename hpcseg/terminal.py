"""What the command line prints: progress bars, tables and one-line errors. Pure of any work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from hpcseg.sweeps.plan import Plan
    from hpcseg.sweeps.slots import Event
    from hpcseg.sweeps.status import RunStatus
    from hpcseg.training.control import Heartbeat
    from hpcseg.training.rehearsal import Rehearsal

_STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "bold red",
    "blocked": "red",
    "lost": "red",
    "unknown": "yellow",
    "stopped": "yellow",
    "queued": "blue",
    "new": "blue",
}


def console() -> Console:
    """Standard output; wide enough for tables where it is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def fail(message: str) -> None:
    """One line on standard error."""
    print("error:", " ".join(message.split()), file=sys.stderr)


def note(message: str) -> None:
    """One line on standard error that is no error."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars on standard error, with the time left; on something that is no terminal, they are not drawn."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[says]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        yield progress


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int, str], None]]:
    """One bar for work that reports (done, in all, name)."""
    with bars() as progress:
        task = progress.add_task(description, total=None, says="")

        def report(done: int, total: int, name: str) -> None:
            progress.update(task, completed=done, total=total, says=name)

        yield report


def plan_tables(plan: Plan) -> list[Table]:
    """What a plan contains: how many stages of each kind are in which state, and the runs."""
    from rich.table import Table

    counts = plan.counts()
    states = sorted({state for stage in counts.values() for state in stage}, key=list(_STYLES).index)
    summary = Table(title=f"plan of {plan.sweep.name}", title_justify="left")
    summary.add_column("stage")
    summary.add_column("runs", justify="right")
    for state in states:
        summary.add_column(state, justify="right", style=_STYLES[state])
    runs = Table()
    for name in ("stage", "run", "state", "needs"):
        runs.add_column(name, overflow="fold")
    for stage, found in counts.items():
        summary.add_row(stage, str(sum(found.values())), *(str(found.get(state, 0)) for state in states))
        for run_id, planned in plan.of_stage(stage).items():
            state = planned.verdict.state
            needs = ", ".join(planned.needs[:2]) + (f" and {len(planned.needs) - 2} more" if planned.needs[2:] else "")
            runs.add_row(stage, run_id, f"[{_STYLES[state]}]{state}[/]", needs)
    return [runs, summary]


def status_tables(lines: Sequence[RunStatus]) -> list[Table]:
    """One row per run, and the totals."""
    from collections import Counter

    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in ("stage", "run", "state"):
        table.add_column(name, no_wrap=name != "run", overflow="fold")
    for name in ("progress", "loss", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for line in lines:
        table.add_row(
            line.stage,
            line.id,
            f"[{_STYLES[line.state]}]{line.state}[/]",
            _progress(line),
            "" if line.loss is None else f"{line.loss:.4f}",
            duration(line.eta_s),
            escape(line.why),
        )
    totals = Table.grid(padding=(0, 2))
    counts = Counter(line.state for line in lines)
    totals.add_row(*(f"[{_STYLES[state]}]{counts[state]} {state}[/]" for state in _STYLES if counts[state]))
    return [table, totals]


def rehearsal_table(done: Rehearsal) -> Table:
    """One row per interruption."""
    from rich.table import Table

    table = Table()
    table.add_column("signal")
    table.add_column("step", justify="right")
    table.add_column("resumed from", justify="right")
    for each in done.interruptions:
        table.add_row(each.signal, str(each.step), "too late" if each.resumed_from is None else str(each.resumed_from))
    return table


def _progress(line: RunStatus) -> str:
    if line.state == "done":
        return ""
    share = f"{line.step}/{line.steps}" if line.steps else ""
    return f"{line.phase} {share}".strip()


def duration(seconds: float | None) -> str:
    """Seconds as 4 s, 3 min or 2.5 h; empty for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def following(plan: Plan) -> Iterator[Callable[[Event], None]]:
    """Shows the stages of a plan while they run: a bar for each running one, a line for each that ended."""
    from collections import Counter

    from rich.markup import escape

    done = Counter(planned.verdict.state for planned in plan.stages.values())["done"]
    with bars() as progress:
        whole = progress.add_task(plan.sweep.name, total=len(plan.stages), completed=done, says="")
        tasks: dict[str, Any] = {}

        def notify(event: Event) -> None:
            if event.heartbeat is not None:
                if event.run_id not in tasks:
                    tasks[event.run_id] = progress.add_task(escape(event.run_id), total=None, says="")
                _advance(progress, tasks[event.run_id], event.heartbeat)
                return
            if event.state in {"done", "failed", "stopped", "lost", "blocked"}:
                task = tasks.pop(event.run_id, None)
                if task is not None:
                    progress.remove_task(task)
                if event.state == "done":
                    progress.advance(whole)
                line = f"{event.state:8}{event.stage:9}{event.run_id}" + (f"  {event.message}" if event.message else "")
                progress.console.print(line, style=_STYLES[event.state], markup=False, highlight=False)

        yield notify


def beat_bar(progress: Progress) -> Callable[[Heartbeat], None]:
    """One bar per phase of a run in the foreground."""
    tasks: dict[str, Any] = {}

    def show(beat: Heartbeat) -> None:
        task = tasks.get(beat.phase)
        if task is None:
            task = tasks[beat.phase] = progress.add_task(beat.phase, total=None, says="")
        _advance(progress, task, beat)

    return show


def _advance(progress: Progress, task: Any, beat: Heartbeat) -> None:
    loss = "" if beat.loss is None else f"  loss {beat.loss:.4f}"
    progress.update(task, completed=beat.step, total=beat.steps or None, says=f"{beat.phase}{loss}")


def watch_status(read: Callable[[], Sequence[RunStatus]], interval_s: float = 2.0) -> None:
    """Show the status anew every `interval_s` seconds until nothing is queued or running any more."""
    import time

    from rich.console import Group
    from rich.live import Live

    with Live(console=console(), refresh_per_second=4) as live:
        while True:
            lines = read()
            live.update(Group(*status_tables(lines)), refresh=True)
            if not any(line.state in {"queued", "running", "unknown"} for line in lines):
                return
            time.sleep(interval_s)
