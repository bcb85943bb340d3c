"""Requests to stop that reach a job as signals."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from hpcseg.training.control import Control


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
