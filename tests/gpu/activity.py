"""What a device did, from a profiler's trace: how much of the time it was busy, and with what. Pure."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

Interval = tuple[str, float, float]  # name, begin, end; microseconds

GPU_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})


def device_intervals(trace: dict[str, Any], kinds: frozenset[str] = GPU_WORK) -> list[Interval]:
    """What ran on the device, from a trace in Chrome's format, in order.

    Ranges that a program names ("Optimizer.step", "ProfilerStep#3") are drawn over the device's time as well; they are
    of another kind and left out.
    """
    found = [
        (str(event.get("name", "")), float(event["ts"]), float(event["ts"]) + float(event.get("dur", 0)))
        for event in trace.get("traceEvents", ())
        if event.get("ph") == "X" and event.get("cat") in kinds
    ]
    return sorted(found, key=lambda one: one[1])


def packed(trace: dict[str, Any], most: int, kinds: frozenset[str] = GPU_WORK) -> bytes:
    """What ran on the device as a trace of its own, compressed; of a long one the beginning, in `most` bytes."""
    events = [one for one in trace.get("traceEvents", ()) if one.get("ph") == "M" or one.get("cat") in kinds]
    while len(found := gzip.compress(json.dumps({**trace, "traceEvents": events}).encode())) > most and events:
        events = events[: len(events) // 2]
    return found


def busy_share(intervals: Sequence[Interval]) -> float:
    """Share of the time between the first begin and the last end in which something ran; 0 without intervals."""
    if not intervals:
        return 0.0
    covered, until = 0.0, -float("inf")
    ordered = sorted(intervals, key=lambda one: one[1])
    for _, begin, end in ordered:
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    whole = until - ordered[0][1]
    return covered / whole if whole > 0 else 1.0


def longest_gaps(intervals: Sequence[Interval], count: int) -> list[tuple[float, str, str]]:
    """The longest times in which nothing ran: microseconds, what ended, what began after it."""
    gaps, until, last = [], None, ""
    for name, begin, end in sorted(intervals, key=lambda one: one[1]):
        if until is not None and begin > until:
            gaps.append((begin - until, last, name))
        if until is None or end > until:
            until, last = end, name
    return sorted(gaps, reverse=True)[:count]


def by_name(intervals: Sequence[Interval]) -> list[tuple[str, int, float]]:
    """Name, calls and microseconds of everything that ran, the longest first."""
    sums: dict[str, tuple[int, float]] = {}
    for name, begin, end in intervals:
        calls, length = sums.get(name, (0, 0.0))
        sums[name] = (calls + 1, length + end - begin)
    return sorted(((name, *value) for name, value in sums.items()), key=lambda one: -one[2])
