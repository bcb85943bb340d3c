"""Strategies by name: hpcseg's own, and those that other packages bring. Each is imported when somebody asks for it.

A package names its strategies in the entry-point group `hpcseg.strategies`; each leads to a class made from
`hpcseg.training.strategy.Strategy`. hpcseg's own need no entry points: they are there in a source tree, too.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from hpcseg.errors import BadInput
from hpcseg.sections import Section
from hpcseg.text import nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "hpcseg.strategies"
REFERENCE = "baseline"  # what the others are compared with
_OWN = {
    "baseline": "hpcseg.training.strategies.baseline:Baseline",
    "transfer": "hpcseg.training.strategies.transfer:Transfer",
    "multitask": "hpcseg.training.strategies.multitask:Multitask",
    "teacher": "hpcseg.training.strategies.teacher:Teacher",
    "masked": "hpcseg.training.strategies.masked:Masked",
    "selftrain": "hpcseg.training.strategies.selftrain:Selftrain",
}


class Described(Protocol):
    """What a run's configuration has to know of its strategy."""

    name: str
    networks: Collection[str]
    section_type: type[Section]

    def check(self, config: Any) -> None:
        """Raise ValueError where keys do not go together."""


def names() -> tuple[str, ...]:
    """Names of all strategies, hpcseg's own first; none is imported.

    Raises:
        BadInput: two strategies have one name.
    """
    return (*_OWN, *sorted(_brought()))


@functools.cache
def described(name: str) -> Described:
    """The strategy of this name.

    Raises:
        BadInput: there is none, or it cannot be imported; the message names its package.
    """
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        found: Described = getattr(importlib.import_module(module), attribute)()
        return found
    brought = _brought()
    if name not in brought:
        raise BadInput(f"there is no strategy '{name}'{nearest(name, names())}")
    point = brought[name]
    try:
        found = point.load()()
        if (found.name, issubclass(found.section_type, Section)) != (name, True):
            raise TypeError(f"{point.value} is named {found.name!r}")
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"strategy '{name}' of {_package(point)} cannot be used ({type(error).__name__}: {why}); "
            "repair or uninstall that package"
        ) from error
    return found


@functools.cache
def _brought() -> Mapping[str, EntryPoint]:
    """Entry points of other packages, by name."""
    from importlib.metadata import entry_points  # takes longer than the rest of a command's start

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = "hpcseg" if point.name in _OWN else _package(found[point.name]) if point.name in found else ""
        if other:
            raise BadInput(
                f"there are two strategies '{point.name}', of {other} and of {_package(point)}; uninstall one of them"
            )
        found[point.name] = point
    return found


def _package(point: EntryPoint) -> str:
    return "a package without a name" if point.dist is None else f"{point.dist.name} {point.dist.version}"
