"""What a benchmark is: a function that measures one or more named figures, each with a bound that it must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class Skipped(Exception):
    """A benchmark cannot be measured here; the message says why, and the figures stay as they were."""


@dataclass(frozen=True)
class Bound:
    """What a figure must be: at most (`<=`) or at least (`>=`) a limit."""

    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bound."""
        return value <= self.limit if self.sign == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.sign == '<=' else '≥'} {self.limit:g}"


def at_most(limit: float) -> Bound:
    """Bound from above."""
    return Bound("<=", limit)


def at_least(limit: float) -> Bound:
    """Bound from below."""
    return Bound(">=", limit)


@dataclass(frozen=True)
class Figure:
    """One number of `docs/benchmarks.json`.

    Attributes:
        name: key in the JSON file; never reused for something else.
        meaning: what the number is, in one line.
        unit: "ms", "s", "×" for a ratio, ...
        how: how it is measured: on what, compared with what, which statistic.
        bound: what it must hold; None for figures that only inform.
    """

    name: str
    meaning: str
    unit: str
    how: str
    bound: Bound | None = None


@dataclass(frozen=True)
class Measured:
    """What one run of a benchmark found: its figures by name, and whatever else is worth a line on the page."""

    figures: dict[str, float]
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A function that measures `figures`, run in a process of its own.

    Attributes:
        room: module that it is defined in.
        name: of the function.
        peers: whether it needs other tools, and so runs in their environment.
    """

    room: str
    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[], Measured]
    peers: bool = False

    @property
    def title(self) -> str:
        """Unique name, for instance "volumes.packing"."""
        return f"{self.room}.{self.name}"


def benchmark(*figures: Figure, peers: bool = False) -> Callable[[Callable[[], Measured]], Benchmark]:
    """Turn the function below it into the benchmark that measures `figures`."""

    def register(measure: Callable[[], Measured]) -> Benchmark:
        return Benchmark(measure.__module__.rpartition(".")[2], measure.__name__, figures, measure, peers)

    return register
