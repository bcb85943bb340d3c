"""Where runs are: the table of `status`, `--watch`, a rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpcseg.terminal import STYLES, console, duration

if TYPE_CHECKING:
    from rich.table import Table

    from hpcseg.sweeps.status import RunStatus
    from hpcseg.training.rehearsal import Rehearsal


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
            f"[{STYLES[line.state]}]{line.state}[/]",
            _progress(line),
            "" if line.loss is None else f"{line.loss:.4f}",
            duration(line.eta_s),
            escape(line.why),
        )
    totals = Table.grid(padding=(0, 2))
    counts = Counter(line.state for line in lines)
    totals.add_row(*(f"[{STYLES[state]}]{counts[state]} {state}[/]" for state in STYLES if counts[state]))
    return [table, totals]


def _progress(line: RunStatus) -> str:
    if line.state == "done":
        return ""
    share = f"{line.step}/{line.steps}" if line.steps else ""
    return f"{line.phase} {share}".strip()


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
