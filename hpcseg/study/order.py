"""In which order stages come: ancestors first, and of these those of one kind together. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from graphlib import TopologicalSorter
from typing import Protocol, TypeVar

from hpcseg.paths import STAGES


class Step(Protocol):
    """A stage, or the request for one."""

    @property
    def stage(self) -> str:
        """One of `STAGES`."""

    @property
    def needs(self) -> Collection[str]:
        """Ids of what must be done before."""


StepT = TypeVar("StepT", bound=Step)


def waves(steps: Iterable[tuple[str, StepT]]) -> dict[tuple[int, str], list[StepT]]:
    """Steps by wave and kind, in an order in which each comes after what it needs.

    Kinds follow each other as in `STAGES`; what needs a later kind, or its own, begins the next wave.

    Args:
        steps: each with its id; what is needed beside them counts for nothing.
    """
    by_id = dict(steps)
    needs = {name: [need for need in step.needs if need in by_id] for name, step in by_id.items()}
    kind = {name: STAGES.index(step.stage) for name, step in by_id.items()}
    wave: dict[str, int] = {}
    for name in TopologicalSorter(needs).static_order():
        wave[name] = max([wave[need] + (kind[need] >= kind[name]) for need in needs[name]], default=0)
    found: dict[tuple[int, str], list[StepT]] = {}
    for name in sorted(by_id, key=lambda name: (wave[name], kind[name])):
        found.setdefault((wave[name], by_id[name].stage), []).append(by_id[name])
    return found
