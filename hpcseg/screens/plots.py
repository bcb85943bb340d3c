"""Learning curves drawn with characters, anew whenever an epoch has ended: `hpcseg watch`."""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from hpcseg.screens.terminal import STYLES, console
from hpcseg.text import duration
from hpcseg.training.curves import Curves, Point
from hpcseg.training.history import epoch_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")  # of runs, or of one run's curves
LETTERS = "abcdef"  # where there are no colours
WIDE = 100  # columns from which on the two plots stand side by side
FIRST_LINES = 5  # epochs of the past that are printed where standard output is no terminal
Read = Callable[[], tuple[list[Curves], bool]]


class Series(NamedTuple):
    """One line of a plot."""

    look: int  # place among `COLOURS`
    points: Sequence[Point]
    mark: Literal["line", "dot", "ring"] = "line"


class Panel(NamedTuple):
    """One plot."""

    title: str
    series: Sequence[Series]
    scale: Literal["log", "linear", "share"]


def watch_curves(read: Read, interval_s: float = 1.0) -> None:
    """Draw the curves that `read` gives until none of their runs may go on any more, or q is pressed.

    Where standard output is no terminal, each epoch is printed as a line instead. Where reading takes long, the pauses
    grow with it; a folder that cannot be read for a moment is tried again.
    """
    from rich.live import Live

    screen = console()
    if not screen.is_terminal:
        _print_epochs(read, interval_s)
        return
    with Live(console=screen, auto_refresh=False) as live, _keys() as pressed:
        shown: list[Curves] = []
        while True:
            began = time.monotonic()
            found, goes_on = _read(read)
            shown = found or shown
            live.update(picture(shown, screen), refresh=True)
            if not goes_on or pressed("q", max(interval_s, 3 * (time.monotonic() - began))):
                return


def picture(runs: Sequence[Curves], screen: Console) -> RenderableType:
    """Loss and Dice by epoch, and a line for each run, as large as the terminal allows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not runs:
        return "no run trains just now; waits for one (q ends)"
    shown = runs[: len(COLOURS)]
    panels, colours = _panels(shown), screen.color_system is not None
    beside = screen.width >= WIDE and len(panels) > 1
    rows = screen.height - len(shown) - 6
    width = screen.width // 2 - 1 if beside else screen.width - 1
    height = max(6, min(rows if beside else rows // len(panels), 20))
    plots = [Text.from_ansi(_plot(panel, width, height, colours), no_wrap=True) for panel in panels]
    grid = Table.grid()
    for row in [plots] if beside else [[plot] for plot in plots]:
        grid.add_row(*row)
    more = f"and {len(runs) - len(shown)} more: name fewer; " if len(shown) < len(runs) else ""
    return Group(grid, _legend(shown, colours), f"{more}q ends")


def _legend(runs: Sequence[Curves], colours: bool) -> RenderableType:
    """A line for each run, in its colour."""
    from rich.table import Table

    rows = []
    for number, run in enumerate(runs):
        line, last = run.line, run.history[-1] if run.history else {}
        mark = f"{LETTERS[number]} " if not colours and len(runs) > 1 else ""
        name = f"[{COLOURS[number]}]{mark}{line.id}[/]" if len(runs) > 1 else line.id
        state = f"[{STYLES[line.state]}]{line.state if run.history or not line.phase else line.phase}[/]"
        losses = (last.get("training_loss", line.loss), last.get("validation_loss"))
        cells = ["" if value is None else f"{value:.4f}" for value in losses]
        cells += [f"{points[-1][1]:.3f}" if points else "" for points in (run.dice, run.dsc)]
        rows.append([name, state, f"{len(run.history)}/{run.epochs}", *cells, duration(line.eta_s)])
    found = Table(box=None, padding=(0, 2, 0, 0))
    names = ("run", "state", "epoch", "loss", "valid.", "Dice", "DSC", "left")
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        words = name in {"run", "state"}
        width = 0 if words else max(map(len, (name, *column)))  # where there is little room, names are cut
        found.add_column(name, no_wrap=True, min_width=width or None, justify="left" if words else "right")
    for row in rows:
        found.add_row(*row)
    return found


def _panels(runs: Sequence[Curves]) -> list[Panel]:
    """Of one run both losses, of several that of validation; Dice where it was measured."""
    if len(runs) == 1:
        losses = [Series(0, runs[0].loss("training"), "dot"), Series(0, runs[0].loss("validation"))]
        title = "loss: training dotted, validation solid" if losses[1].points else "training loss"
    else:
        losses = [Series(look, run.loss("validation") or run.loss("training")) for look, run in enumerate(runs)]
        title = "validation loss" + ("" if all(run.loss("validation") for run in runs) else ", or training loss")
    dice = [Series(look, run.dice) for look, run in enumerate(runs) if run.dice]
    dsc = [Series(look, run.dsc, "ring") for look, run in enumerate(runs) if run.dsc]
    shares = "Dice of validation patches" + ("; o: DSC of whole scans" if dsc else "")
    scale: Literal["log", "linear"] = "log" if all(value > 0 for one in losses for _, value in one.points) else "linear"
    return [Panel(title, losses, scale), *([Panel(shares, [*dice, *dsc], "share")] if dice else [])]


def _plot(panel: Panel, width: int, height: int, colours: bool) -> str:
    """One panel, with escapes for its colours."""
    import plotext as plot  # its one figure is drawn anew

    plot.clear_figure()
    plot.theme("clear")
    plot.plotsize(width, height)
    plot.title(panel.title)
    points = [point for one in panel.series for point in one.points]
    for look, found, mark in panel.series:
        if found:
            letter = {"line": LETTERS[look], "dot": LETTERS[look].upper(), "ring": "o"}[mark]
            marker = {"line": "braille", "dot": "·", "ring": "o"}[mark] if colours else letter
            draw = plot.plot if mark == "line" and len(found) > 1 else plot.scatter
            draw(*zip(*found, strict=True), color=COLOURS[look], marker=marker)
    last = max((epoch for epoch, _ in points), default=1)
    plot.xlim(1, max(last, 2))
    plot.xticks(sorted({1 + round((max(last, 2) - 1) * share / 4) for share in range(5)}))
    if panel.scale == "share":
        plot.ylim(0, 1)
        plot.yticks([0, 0.25, 0.5, 0.75, 1])
    elif panel.scale == "log" and points:
        plot.yscale("log")
        low, high = min(value for _, value in points), max(value for _, value in points)
        ticks = list(log_ticks(low, high))
        plot.yticks(ticks, [f"{tick:g}" for tick in ticks])
    return str(plot.build())


def log_ticks(low: float, high: float) -> Iterable[float]:
    """Round numbers between two positive ones: 1, 2 and 5 times powers of ten; else the two themselves.

    >>> list(log_ticks(0.04, 1.7)), list(log_ticks(0.31, 0.34))
    ([0.05, 0.1, 0.2, 0.5, 1.0], [0.31, 0.34])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    found = [tick for tick in ticks if low <= tick <= high]
    return found if len(found) > 1 else [float(f"{low:.2g}"), float(f"{high:.2g}")]


def _read(read: Read) -> tuple[list[Curves], bool]:
    """What there is to draw; nothing, for the moment, where a folder cannot be read."""
    try:
        return read()
    except OSError:
        return [], True


def _print_epochs(read: Read, interval_s: float) -> None:
    """A line for each epoch as it comes, after the last ones of the past."""
    known: dict[str, int] = {}
    goes_on = True
    while goes_on:
        began = time.monotonic()
        runs, goes_on = _read(read)
        for run in runs:
            new = run.history[known.get(run.line.id, -FIRST_LINES) :]
            for record in new:
                print(f"{run.line.id}  {epoch_line(record, run.epochs)}", flush=True)
            if not goes_on or run.line.id not in known:
                print(f"{run.line.id} is {run.line.state}: {run.line.why}", flush=True)
            known[run.line.id] = len(run.history)
        if goes_on:
            time.sleep(max(interval_s, 3 * (time.monotonic() - began)))


@contextmanager
def _keys() -> Iterator[Callable[[str, float], bool]]:
    """Whether a key is pressed within some seconds; keys are taken at once, and not shown. Ctrl-C stays what it is."""
    import termios
    import tty

    def wait(_key: str, seconds: float) -> bool:
        time.sleep(seconds)
        return False

    def pressed(key: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and select.select([sys.stdin], [], [], left)[0]:
            if os.read(sys.stdin.fileno(), 1).decode(errors="replace") in {key, ""}:  # "": the terminal has gone
                return True
        return False

    if not sys.stdin.isatty():
        yield wait
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSANOW)
    try:
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
