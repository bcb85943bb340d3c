"""What the command line prints: progress bars, JSON, one-line errors. Pure of any work."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hpcseg.errors import LeftOut

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from hpcseg.heartbeat import Heartbeat

STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "bold red",
    "blocked": "red",
    "lost": "red",
    "stalled": "magenta",
    "unknown": "yellow",
    "requeued": "cyan",
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


def show_what_is_left_out() -> None:
    """Print each warning that something damaged is left out as a note, once; other warnings as Python does."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, LeftOut):
            note(str(message))
        else:
            usual(message, category, *place, **more)

    warnings.simplefilter("once", LeftOut)
    warnings.showwarning = show


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_json_lines(values: Sequence[Any]) -> None:
    """A list as JSON on standard output, one value per line: thousands of them in a moment."""
    print("[\n" + ",\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n]")


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Ctrl-C is the ordinary end of what is done inside: exit code 130, and no word."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.exit(130)


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


def table(
    rows: Sequence[Mapping[str, str]],
    *,
    title: str = "",
    caption: str = "",
    right: Collection[str] = (),
    styles: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """Rows as a table, with a column for each key of the first one.

    Args:
        rows: at least one; none has more keys than the first.
        title, caption: above and below.
        right: columns that are set right.
        styles: of columns.
    """
    from rich.markup import escape
    from rich.table import Table

    found = Table(title=title or None, title_justify="left", caption=caption or None, caption_justify="left")
    for name in rows[0]:
        found.add_column(
            name, justify="right" if name in right else "left", style=styles.get(name, ""), overflow="fold"
        )
    for row in rows:
        found.add_row(*(escape(row.get(name, "")) for name in rows[0]))
    return found


def beat_bar(progress: Progress) -> Callable[[Heartbeat], None]:
    """One bar per phase of a run in the foreground."""
    tasks: dict[str, Any] = {}

    def show(beat: Heartbeat) -> None:
        task = tasks.get(beat.phase)
        if task is None:
            task = tasks[beat.phase] = progress.add_task(beat.phase, total=None, says="")
        advance(progress, task, beat)

    return show


def advance(progress: Progress, task: Any, beat: Heartbeat) -> None:
    """Move a bar to what a heartbeat says."""
    loss = "" if beat.loss is None else f"  loss {beat.loss:.4f}"
    progress.update(task, completed=beat.step, total=beat.steps or None, says=f"{beat.phase}{loss}")
