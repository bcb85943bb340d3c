"""What the command line prints: progress bars, JSON, one-line errors. Pure of any work."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO, cast

from hpcseg.errors import LeftOut
from hpcseg.text import printable

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
    "held": "magenta",
    "unknown": "yellow",
    "requeued": "cyan",
    "stopped": "yellow",
    "queued": "blue",
    "new": "blue",
}


def console(*, stderr: bool = False) -> Console:
    """Standard output or error for what has colours; wide enough for tables where it is not a terminal."""
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        """Shows control characters of what it is given as escapes; its own reach the terminal."""

        def render(self, *given: Any, **options: Any) -> Iterator[Segment]:
            for segment in super().render(*given, **options):
                yield segment if segment.control else Segment(printable(segment.text), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    file = stream.inner if isinstance(stream, SafeStream) else stream
    return Safe(file=file, highlight=False, width=None if stderr or file.isatty() else 160)


class SafeStream:
    """A stream that shows control characters as escapes; all else is the stream's that it stands for."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write the text as `printable` makes it."""
        self.inner.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def guarded() -> Iterator[None]:
    """What is printed inside goes through `printable`, and what is left out is said as a note.

    The same note comes once; other warnings come as Python does it.
    """
    before = sys.stdout, sys.stderr
    with warnings.catch_warnings():
        try:
            sys.stdout, sys.stderr = map(_safe, before)
            _show_what_is_left_out()
            yield
        finally:
            sys.stdout, sys.stderr = before


def _safe(stream: TextIO) -> TextIO:
    """The stream itself where it is safe, or (in Python without a console) None."""
    return stream if stream is None or isinstance(stream, SafeStream) else cast("TextIO", SafeStream(stream))


def fail(message: str) -> None:
    """One line on standard error."""
    print("error:", printable(" ".join(message.split())), file=sys.stderr)


def note(message: str) -> None:
    """One line on standard error that is no error."""
    print(printable(" ".join(message.splitlines())), file=sys.stderr)


def _show_what_is_left_out() -> None:
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
    print(_json(value, indent=1))


def print_json_lines(values: Sequence[Any]) -> None:
    """A list as JSON on standard output, one value per line: thousands of them in a moment."""
    print("[\n" + ",\n".join(map(_json, values)) + "\n]")


def _json(value: Any, indent: int | None = None) -> str:
    """JSON whose control characters are JSON's escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if printable(text) == text else json.dumps(value, indent=indent)


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
    with Progress(*columns, console=console(stderr=True), disable=not sys.stderr.isatty()) as progress:
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
    dice = "" if beat.dice is None or beat.loss is None else f"  Dice {beat.dice:.3f}"
    progress.update(task, completed=beat.step, total=beat.steps or None, says=f"{beat.phase}{loss}{dice}")
