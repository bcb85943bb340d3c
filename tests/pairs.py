"""A few of all combinations of a test's parameters, which have every two values together."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import TypeVar

Name = TypeVar("Name")


def few_with_all_pairs(combined: Iterable[tuple[Name, dict[str, str]]]) -> list[Name]:
    """Choose combinations so that any two values that are together in one of them are so in a chosen one.

    Args:
        combined: a name for each combination, and its values by parameter.

    >>> both = "01"
    >>> few_with_all_pairs([(a + b + c, {"a": a, "b": b, "c": c}) for a in both for b in both for c in both])
    ['000', '011', '101', '110']
    """
    pairs = {name: set(combinations(sorted(values.items()), min(len(values), 2))) for name, values in combined}
    missing, chosen = {pair for own in pairs.values() for pair in own}, list[Name]()
    while missing:
        chosen.append(max(pairs, key=lambda name: len(pairs[name] & missing)))
        missing -= pairs[chosen[-1]]
    return [name for name in pairs if name in chosen]
