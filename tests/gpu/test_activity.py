"""How busy a device was, from intervals; and what of a trace is the device's."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from tests.gpu.activity import busy_share, by_name, device_intervals, longest_gaps, packed
from tests.gpu.device import Machine


def test_overlapping_intervals_count_once() -> None:
    assert busy_share([("a", 0, 10), ("b", 5, 10), ("c", 15, 20)]) == pytest.approx(15 / 20)
    assert busy_share([("c", 15, 20), ("a", 0, 10), ("b", 2, 3)]) == pytest.approx(15 / 20), "in any order"
    assert busy_share([("a", 3, 7)]) == 1
    assert busy_share([]) == 0


def test_a_long_interval_hides_gaps_of_others() -> None:
    inside = [("long", 0, 100), ("a", 10, 20), ("b", 50, 60), ("after", 110, 120)]
    assert busy_share(inside) == pytest.approx(110 / 120)
    assert longest_gaps(inside, 5) == [(10, "long", "after")]


def test_gaps_are_named_by_what_stands_around_them() -> None:
    assert longest_gaps([("a", 0, 1), ("b", 4, 5), ("c", 6, 7)], 1) == [(3, "a", "b")]
    assert longest_gaps([], 3) == []


def test_only_kernels_and_copies_of_a_trace_count() -> None:
    events = [
        {"ph": "X", "cat": "kernel", "name": "second", "ts": 5.5, "dur": 2},
        {"ph": "X", "cat": "gpu_memcpy", "name": "copy", "ts": 1, "dur": 1},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "Optimizer.step", "ts": 0, "dur": 100},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0, "dur": 100},
        {"ph": "f", "cat": "kernel", "name": "arrow", "ts": 0},
        {"name": "process_name", "ph": "M"},
    ]
    assert device_intervals({"traceEvents": events}) == [("copy", 1, 2), ("second", 5.5, 7.5)]


def test_a_long_trace_is_cut_to_what_may_be_kept() -> None:
    work = [{"ph": "X", "cat": "kernel", "name": f"kernel {n}", "ts": n, "dur": 1} for n in range(1000)]
    trace = {"traceEvents": [{"ph": "X", "cat": "python", "name": "host"}, *work], "schema": 1}
    whole = json.loads(gzip.decompress(packed(trace, 1 << 20)))
    assert device_intervals(whole) == device_intervals(trace) and len(whole["traceEvents"]) == 1000
    short = packed(trace, 2000)
    assert len(short) <= 2000
    assert device_intervals(json.loads(gzip.decompress(short))) == device_intervals(trace)[:250]


def test_names_are_added_up() -> None:
    assert by_name([("a", 0, 1), ("b", 1, 9), ("a", 9, 11)]) == [("b", 1, 8), ("a", 2, 3)]


def test_a_machine_notes_what_torch_does() -> None:
    matrix = torch.randn(64, 64)
    with Machine(0.001).watched() as activity:
        matrix @ matrix
    assert any("mm" in name or "matmul" in name for name, _, _ in activity.intervals)
    assert 0 < busy_share(activity.intervals) <= 1


def test_timings_take_turns_and_are_medians() -> None:
    seen: list[int] = []
    timing = Machine(0.001).milliseconds(lambda: seen.append(0), lambda: seen.append(1))
    assert timing.fastest <= timing.median <= timing.slowest
    assert seen[:2] == [0, 1], "each is warmed"
    assert abs(seen.count(0) - seen.count(1)) <= 2
    per_call = Machine(0.001).per_call(lambda: None, 5)
    assert per_call.fastest <= per_call.median <= per_call.slowest
