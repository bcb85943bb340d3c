"""What the command line prints: progress bars, JSON, one-line errors. Pure of any work."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO, cast

from hpcseg.errors import Interrupted, LeftOut
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
def interruptible(words: str) -> Iterator[None]:
    """Ctrl-C ends what is done inside with these words."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(words) from None


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Ctrl-C is the ordinary end of what is done inside: exit code 130, and no word."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.exit(130)


@contextmanager
def bars(patience_s: float = 0.0) -> Iterator[Progress]:
    """Progress bars on standard error, until the work inside is done; on something that is no terminal, none are drawn.

    They appear after `patience_s` seconds. The time left is taken from the bar's speed, or from its field `left`.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["left"], "progress.remaining") if "left" in task.fields else super().render(task)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeft(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[says]}"),
    )
    on_screen = console(stderr=True)
    progress = Progress(*columns, console=on_screen, disable=not sys.stderr.isatty(), transient=True)
    starter = threading.Timer(patience_s, progress.start)
    if patience_s:
        starter.start()
    else:
        progress.start()
    try:
        yield progress
    finally:
        starter.cancel()
        if patience_s:
            starter.join()  # or it might start what was stopped
        progress.stop()


@contextmanager
def counting(description: str, patience_s: float = 0.0) -> Iterator[Callable[[int, int, str], None]]:
    """One bar for work that reports (done, in all, name); see `bars`."""
    with bars(patience_s) as progress:
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
    """One bar for the phases of runs in the foreground, one after the other."""
    shown: tuple[str, Any] = "", None

    def show(beat: Heartbeat) -> None:
        nonlocal shown
        phase, task = shown
        if beat.phase != phase:
            if task is not None:
                progress.remove_task(task)
            task = progress.add_task(beat.phase, total=None, says="")
            shown = beat.phase, task
        advance(progress, task, beat)

    return show


def advance(progress: Progress, task: Any, beat: Heartbeat) -> None:
    """Move a bar to what a heartbeat says."""
    numbers = {"loss": (beat.loss, 4), "Dice": (beat.dice, 3), "DSC": (beat.dsc, 3)}
    words = [f"{name} {value:.{digits}f}" for name, (value, digits) in numbers.items() if value is not None]
    says = "  ".join((beat.phase, *(words if beat.loss is not None else ())))
    progress.update(task, completed=beat.step, total=beat.steps or None, says=says)
