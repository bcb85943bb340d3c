"""Time in tests: waits that end with what is waited for, and a clock that passes as a test lets it."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0  # no loaded machine is so slow; pytest's own limit is longer, but says less
_POLL_S = 0.05


def wait_for(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Poll until `condition` holds.

    Raises:
        TimeoutError: it did not come true in time.
    """
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"did not come true within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


class Clock:
    """Stands for the module `time` in a module under test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = perf_counter = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds
