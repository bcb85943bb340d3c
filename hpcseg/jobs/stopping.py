"""What asks a job to stop: signals, its time limit, another attempt that wants the run, the end of the local pool."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from hpcseg.threads import beside
from hpcseg.training.control import Control

POLL_S = 1.0
SHORTEST_LEAD_S = 30.0
SPARE_S = 10.0
LARGEST_SHARE = 0.5  # of the time that a job has: it is to get on, however short its limit


@dataclass
class Signals:
    """Turns USR2, SIGTERM and the first Ctrl-C into a request to stop, also before there is anything to stop."""

    control: Control | None = None
    received: set[int] = field(default_factory=set)
    previous: dict[int, Any] = field(default_factory=dict)

    def install(self) -> None:
        """Listen from now on."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._handle)

    def attach(self, control: Control) -> None:
        """Tell `control`, also of what came before."""
        self.control = control
        if self.received:
            control.ask_to_stop()

    def restore(self) -> None:
        """Listen no longer."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """For good: a job that is requeued gets more of them, and has nothing left to save."""
        for number in self.previous:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self.received:
            raise KeyboardInterrupt
        self.received.add(number)
        if self.control is not None:
            self.control.ask_to_stop()


def lead_s(save_s: float, step_s: float, whole_s: float) -> float:
    """How long before its end a job has to stop. Pure.

    Args:
        save_s: the longest save that was measured.
        step_s: the longest step.
        whole_s: from the job's beginning to its end.
    """
    return min(max(SHORTEST_LEAD_S, 3 * save_s + 2 * step_s + SPARE_S), LARGEST_SHARE * whole_s)


@contextmanager
def watched(
    control: Control,
    end: float | None,
    is_wanted: Callable[[], bool],
    now: Callable[[], float] = time.time,
    ask_end: Callable[[], float | None] = lambda: None,
) -> Iterator[list[str]]:
    """While the block runs, ask it to stop before Unix time `end`, and when `is_wanted` says that it may not go on.

    Before it stops for its time `ask_end` is asked, as somebody may have given it more (None: not known).

    Yields:
        A list that gets "limit" or "superseded" when that happened.
    """
    why: list[str] = []
    began = now()

    def is_late(end: float) -> bool:
        save = (control.checkpoint or {}).get("seconds", 0.0)
        return end - now() < lead_s(save, control.longest_step_s, end - began)

    def look() -> str:
        nonlocal end
        if not is_wanted():
            return "superseded"
        if end is not None and is_late(end):
            end = max(end, ask_end() or end)
            return "limit" if is_late(end) else ""
        return ""

    def watch(over: threading.Event) -> None:
        while not over.wait(POLL_S):
            reason = look()
            if reason:
                why.append(reason)
                control.ask_to_stop()
                return

    with beside(watch, "deadline"):
        yield why
