"""Measuring on a machine that others use too: sides in turn, fresh processes, one thread, peaks of memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from hpcseg.host import usable_cores
from tests.benchmarks.figures import Skipped

Result = TypeVar("Result")
Work = Callable[[], object]
CORES = 2


def seconds(work: Work) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(rounds: int, *works: Work, warm: bool = True) -> list[tuple[float, ...]]:
    """Seconds of each work in each round; the works take turns (A B A B ...), so that other load falls on all.

    Args:
        rounds: how often each work is timed.
        works: what to time.
        warm: do each once before, untimed.
    """
    if warm:
        for work in works:
            work()
    return [tuple(seconds(work) for work in works) for _ in range(rounds)]


def in_turn(rounds: int, *works: Callable[[], Result]) -> list[list[Result]]:
    """What each work gives in each round, for works that measure themselves; they take turns as in `interleaved`."""
    found = [[work() for work in works] for _ in range(rounds)]
    return [list(one) for one in zip(*found, strict=True)]


def median_ratio(timed: Sequence[tuple[float, ...]], over: int, under: int) -> float:
    """Median over the rounds of work `over`'s seconds by work `under`'s."""
    return median(one[over] / one[under] for one in timed)


def fastest(timed: Sequence[tuple[float, ...]], work: int) -> float:
    """Seconds of the fastest round of a work: for fixed work on a CPU, the rounds above it hold others' load."""
    return min(one[work] for one in timed)


@contextlib.contextmanager
def two_threads() -> Iterator[None]:
    """Give torch two threads, whatever the machine has."""
    import torch

    if usable_cores() < CORES:
        raise Skipped("measured on two cores")
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch and BLAS to one thread each."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def in_fresh_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """Call a module's function in a new Python process, which has imported that module and nothing else has run in."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def warm_file(path: Path) -> None:
    """Read a file once, so that it is in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


class PeakMemory:
    """Peak of this process' resident memory above what it was on entry, in bytes.

    Used as a context manager; `bytes` stands afterwards. Linux only.
    """

    bytes: int = 0

    def __enter__(self) -> PeakMemory:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak back to the present
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _status("VmHWM") - self._before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
