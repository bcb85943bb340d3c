"""All benchmarks, room by room. A new room is one more module in `ROOMS`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from tests.benchmarks import (
    collected,
    inference,
    metrics,
    networks,
    patches,
    peers,
    segmentation,
    status,
    strategies,
    submission,
    sweeps,
    training,
    volumes,
)
from tests.benchmarks.figures import Benchmark, Figure

ROOMS = (
    volumes,
    patches,
    networks,
    training,
    strategies,
    inference,
    segmentation,
    metrics,
    sweeps,
    submission,
    status,
    collected,
    peers,
)
BENCHMARKS: tuple[Benchmark, ...] = tuple(
    value for room in ROOMS for value in vars(room).values() if isinstance(value, Benchmark)
)
FIGURES: dict[str, Figure] = {figure.name: figure for benchmark in BENCHMARKS for figure in benchmark.figures}


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """Benchmarks that a name of a room, of a benchmark or of a figure stands for; all of them if there is no name.

    Raises:
        ValueError: a name stands for nothing.
    """
    called = [(one, {one.room, one.name, one.title, *(figure.name for figure in one.figures)}) for one in BENCHMARKS]
    known = set().union(*(own for _, own in called))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3) or sorted({one.room for one in BENCHMARKS})
            raise ValueError(f"no benchmark or figure is called {name!r}; try {', '.join(near)}")
    return [one for one, own in called if not names or own & set(names)]
