"""Where runs are: the table of `status`, `--watch`, `--why`, a rehearsal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcseg.screens.terminal import STYLES, console, table
from hpcseg.text import aligned, duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hpcseg.runs.status import RunStatus, Totals
    from hpcseg.training.rehearsal import Rehearsal

    Read = Callable[[], tuple[Sequence[RunStatus], Totals]]

ROWS = 60  # of a table; more are chosen, or written as plain lines, which takes a hundredth of the time
ATTENTION = (
    "failed",
    "lost",
    "stalled",
    "held",
    "unknown",
    "blocked",
    "running",
    "requeued",
    "stopped",
    "queued",
    "new",
    "done",
)


def print_status(lines: Sequence[RunStatus], totals: Totals, *, every: bool = False) -> None:
    """Print the runs and the totals; of many runs those that deserve attention first, or all as plain lines."""
    if every and len(lines) > ROWS:
        sys.stdout.write("".join(f"{text}\n" for text in aligned([(*_cells(line), line.why) for line in lines])))
        lines = ()
    for item in status_tables(lines, totals):
        console().print(item)


def status_tables(lines: Sequence[RunStatus], totals: Totals, rows: int = ROWS) -> list[RenderableType]:
    """One row per run, at most `rows` of them, and the totals."""
    from rich.markup import escape
    from rich.table import Table

    shown = list(lines)
    if len(lines) > rows:
        shown = sorted(lines, key=lambda line: ATTENTION.index(line.state))[:rows]
    runs = Table()
    for name in ("stage", "run", "state"):
        runs.add_column(name, no_wrap=name != "run", overflow="fold")
    for name in ("progress", "loss", "Dice", "left"):
        runs.add_column(name, justify="right", no_wrap=True)
    runs.add_column("why", overflow="fold")
    for line in shown:
        stage, run_id, state, *numbers = _cells(line)
        state = f"[{STYLES[state]}]{state}[/]"
        runs.add_row(stage, run_id, state, *numbers, duration(line.eta_s), escape(line.why))
    items: list[RenderableType] = [runs] if shown else []
    if len(shown) < len(lines):
        items.append(f"and {len(lines) - len(shown)} more; --all lists every run")
    return items + _totals(totals)


def totals_line(totals: Totals) -> str:
    """The counts of all states in one line."""
    return ", ".join(f"{totals.states[state]} {state}" for state in STYLES if totals.states.get(state))


def _totals(totals: Totals) -> list[RenderableType]:
    from rich.markup import escape
    from rich.table import Table

    counts = Table.grid(padding=(0, 2))
    states = [state for state in STYLES if totals.states.get(state)]
    counts.add_row(*(f"[{STYLES[state]}]{totals.states[state]} {state}[/]" for state in states))
    items: list[RenderableType] = [counts]
    if totals.waiting:
        items.append(escape("waiting: " + ", ".join(f"{count} {reason}" for reason, count in totals.waiting.items())))
    words = []
    if totals.gpu_hours:
        words.append(f"GPU hours: {totals.gpu_hours:.1f} used, {totals.gpu_hours_lost:.1f} of them lost")
    if totals.eta_s is not None:
        words.append(f"the running ones end their phase in {duration(totals.eta_s)} at the latest")
    return [*items, "; ".join(words)] if words else items


def _cells(line: RunStatus) -> tuple[str, ...]:
    """Stage, id, state, progress, loss and Dice of a run; of one that is done, the DSC of its volumes."""
    share = f"{line.step}/{line.steps}" if line.steps else ""
    progress = f"{line.phase} {share}".strip()
    if line.state == "done":
        progress = ""
    if line.dsc is not None:
        progress = f"{progress}, DSC {line.dsc:.3f}".removeprefix(", ")
    loss = "" if line.loss is None else f"{line.loss:.4f}"
    return line.stage, line.id, line.state, progress, loss, "" if line.dice is None else f"{line.dice:.3f}"


def watch_status(read: Read, interval_s: float = 2.0) -> None:
    """Show the status anew every `interval_s` seconds until nothing may go on by itself any more.

    Where that takes long (many runs, a slow file system), the pauses grow with it. Where standard output is no
    terminal, changes are printed as lines. A folder that cannot be read for a moment is tried again.
    """
    from rich.console import Group
    from rich.live import Live

    screen = console()
    if not screen.is_terminal:
        _watch_lines(read, interval_s)
        return
    with Live(console=screen, auto_refresh=False) as live:
        for found in _readings(read, interval_s):
            if isinstance(found, str):
                live.update(found, refresh=True)
            else:
                first, *sums = status_tables(*found, rows=max(5, min(ROWS, screen.height - 12)))
                live.update(Group(*sums, first), refresh=True)  # of what is too high, the end is left out


def _watch_lines(read: Read, interval_s: float) -> None:
    known: dict[str, str] = {}
    for found in _readings(read, interval_s):
        if isinstance(found, str):
            print(found, flush=True)
            continue
        lines, totals = found
        changes = [line for line in lines if known.get(line.id) != line.state]
        for line in changes if known else ():
            before = known.get(line.id, "not there")
            print(f"{time.strftime('%H:%M:%S')}  {line.id}  {before} → {line.state}  {line.why}")
        if changes:
            print(f"{time.strftime('%H:%M:%S')}  {totals_line(totals)}", flush=True)
        known = {line.id: line.state for line in lines}


def _readings(read: Read, interval_s: float) -> Iterator[tuple[Sequence[RunStatus], Totals] | str]:
    """What is read again and again until all runs have ended, or why it cannot be read just now."""
    from hpcseg.runs.evidence import OPEN

    while True:
        began = time.monotonic()
        try:
            lines, totals = read()
        except OSError as error:
            yield f"{error.filename}: {error.strerror}; tries again"
        else:
            yield lines, totals
            if not any(line.state in OPEN for line in lines):
                return
        time.sleep(max(interval_s, 3 * (time.monotonic() - began)))


def why_lines(known: Mapping[str, Any]) -> list[str]:
    """What is known of one run, as lines for people."""
    found = [f"{known['id']} is {known['state']}: {known['why']}", f"next: {known['next']}", ""]
    found += [f"folder      {known['path']}"]
    found += [f"needs       {one['id']}: {one['state']}, {one['why']}" for one in known.get("needs", ())]
    found += _facts("submitted", known.get("submission"), since="submitted", left_out=("reading",))
    found += _facts("asked for", known.get("asked"))
    found += _facts("queue", known.get("queue"))
    found += _facts("ended", known.get("accounting"))
    heartbeat = known.get("heartbeat")
    if heartbeat:
        share = f" {heartbeat['step']}/{heartbeat['steps']}" if heartbeat["steps"] else ""
        share += "" if heartbeat["dice"] is None else f", Dice {heartbeat['dice']:.3f}"
        share += "" if heartbeat["dsc"] is None else f", DSC {heartbeat['dsc']:.3f}"
        found.append(
            f"heartbeat   {heartbeat['state']}, {heartbeat['phase']}{share}, {duration(heartbeat['age_s'])} ago, "
            f"process {heartbeat['pid']} on {heartbeat['host']}, attempt {heartbeat['attempt']}"
        )
    found += _facts("failure", known.get("failure"), since="time")
    found += [f"attempt     {_attempt(attempt)}" for attempt in known["attempts"]]
    if known["gpu_hours"]:
        found.append(f"GPU hours   {known['gpu_hours']:.2f} used, {known['gpu_hours_lost']:.2f} of them lost")
    files = (f"{name} {duration(one['age_s'])} ago" for name, one in known["files"].items())
    found.append(f"files       {', '.join(files) or 'none'}")
    log = known["log"]
    return found + ([f"log         {log['path']}", *(f"    {line}" for line in log["lines"])] if log else [])


def _facts(name: str, facts: Mapping[str, Any] | None, since: str = "", left_out: Sequence[str] = ()) -> list[str]:
    if not facts:
        return []
    words = []
    for key, value in facts.items():
        if key in {since, "cancelled"}:
            words.append(f"{'at' if key == since else key} {_clock(value)}")
        elif value not in ("", None, [], {}) and key not in left_out:
            words.append(f"{key} {value}")
    return [f"{name:<11} {', '.join(words)}"]


def _attempt(attempt: Mapping[str, Any]) -> str:
    ended, where = attempt["ended"], f" on {attempt['node']}" if attempt["node"] else ""
    lasted = "" if ended is None else f", {duration(ended - attempt['began'])}"
    cause = attempt["cause"] or ("has not ended" if ended is None else "ended")
    detail = f": {attempt['detail']}" if attempt["detail"] else ""
    return f"{attempt['number']}: {_clock(attempt['began'])}{where}, job {attempt['job']}{lasted}, {cause}{detail}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def rehearsal_table(done: Rehearsal) -> Table:
    """One row per interruption."""
    rows = [
        {
            "signal": each.signal,
            "step": str(each.step),
            "resumed from": "too late" if each.resumed_from is None else str(each.resumed_from),
        }
        for each in done.interruptions
    ]
    return table(rows or [{"signal": "none", "step": "", "resumed from": ""}], right={"step", "resumed from"})
