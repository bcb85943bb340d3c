"""Asks a job to stop in time: before its limit, or as soon as another attempt wants the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hpcseg.threads import beside
from hpcseg.training.control import Control

POLL_S = 2.0
SHORTEST_LEAD_S = 30.0
SPARE_S = 10.0
LARGEST_SHARE = 0.5  # of the time that a job has: it is to get on, however short its limit


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
    control: Control, end: float | None, is_wanted: Callable[[], bool], now: Callable[[], float] = time.time
) -> Iterator[list[str]]:
    """While the block runs, ask it to stop before Unix time `end`, and when `is_wanted` says that it may not go on.

    Yields:
        A list that gets "limit" or "superseded" when that happened.
    """
    why: list[str] = []
    began = now()

    def look() -> str:
        if not is_wanted():
            return "superseded"
        if end is not None:
            save = (control.checkpoint or {}).get("seconds", 0.0)
            if end - now() < lead_s(save, control.longest_step_s, end - began):
                return "limit"
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
