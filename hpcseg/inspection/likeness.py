"""Which scans of a dataset hold the same voxels or show the same patient: fingerprints, compared pairwise. Pure.

Thresholds were tried on 200 MR crops of the hippocampus and 16 abdominal CTs: different patients reach 0.90 in
thumbnails and 0.85 in slices, and all 51 pairs of float crops from one scan share their step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hpcseg.inspection.fingerprints import SAME_STEP, Fingerprint, Floats

MIN_SLICES = 5  # fewer in common say nothing
OVERLAP = 0.6  # of the shorter scan
SAME_THUMBNAIL = 0.99
SAME_SLICES = 0.9
_NEARER = 0.4  # distance from 1, of the median's
_COHORT = 10  # cases from which on there is a usual score


@dataclass(frozen=True)
class Likeness:
    """Cases (indices, ascending) that are alike for one reason.

    Attributes:
        kind: "identical", "rearranged", "resaved", "one scan" or "one patient".
        score: the lowest correlation that joins them, or their step; None where it is certain.
    """

    kind: str
    cases: tuple[int, ...]
    score: float | None = None


def find_alike(prints: Sequence[Fingerprint]) -> list[Likeness]:
    """Sets of cases that hold the same voxels (certain), or that look like one scan or one patient (likely).

    Each set of identical cases takes part in the search for likely ones by its first case alone.
    """
    found = [Likeness("identical", cases) for cases in _equal(range(len(prints)), lambda n: prints[n].digest)]
    rest = _without(range(len(prints)), found)
    turned = [Likeness("rearranged", cases) for cases in _equal(rest, lambda n: prints[n].bag)]
    found += turned
    rest = _without(rest, turned)
    found += _joined("resaved", rest, _same_thumbnails([prints[n].thumbnail for n in rest]))
    known = {pair for item in found for pair in _pairs(item.cases)}
    found += [item for item in _same_steps(prints, rest) if not _pairs(item.cases) <= known]
    known |= {pair for item in found for pair in _pairs(item.cases)}
    alike = _same_slices([prints[n].slices for n in rest])
    fresh = [(a, b, score) for a, b, score in alike if (rest[a], rest[b]) not in known]
    return found + _joined("one patient", rest, fresh)


def _equal(cases: Iterable[int], key: Callable[[int], Hashable]) -> list[tuple[int, ...]]:
    """Sets of two or more cases with the same key."""
    sets: defaultdict[Hashable, list[int]] = defaultdict(list)
    for case in cases:
        sets[key(case)].append(case)
    return [tuple(found) for found in sets.values() if len(found) > 1]


def _without(cases: Iterable[int], sets: Iterable[Likeness]) -> list[int]:
    """The cases, each set by its first one alone."""
    others = {case for item in sets for case in item.cases[1:]}
    return [case for case in cases if case not in others]


def _pairs(cases: Sequence[int]) -> set[tuple[int, int]]:
    return set(combinations(cases, 2))


def _same_thumbnails(thumbnails: Sequence[Floats]) -> list[tuple[int, int, float]]:
    if len(thumbnails) < 2:
        return []
    return _outstanding(_correlations(thumbnails), SAME_THUMBNAIL)


def _same_slices(stacks: Sequence[Floats]) -> list[tuple[int, int, float]]:
    """Pairs whose slices match at some shift along z."""
    tall = [n for n, stack in enumerate(stacks) if len(stack) >= MIN_SLICES]
    if len(tall) < 2:
        return []
    pairs = _outstanding(_shifted_correlations([stacks[n] for n in tall]), SAME_SLICES)
    return [(tall[a], tall[b], score) for a, b, score in pairs]


def _outstanding(scores: Floats, limit: float) -> list[tuple[int, int, float]]:
    """Pairs above the limit; in a cohort of scans that are all alike (registered to each other), a higher one."""
    if len(scores) >= _COHORT:
        usual = float(np.median(scores[np.triu_indices(len(scores), 1)]))
        limit = max(limit, 1 - _NEARER * (1 - usual))
    return [(int(a), int(b), float(scores[a, b])) for a, b in np.argwhere(np.triu(scores >= limit, 1))]


def _correlations(arrays: Sequence[Floats]) -> Floats:
    rows = np.stack([array.ravel() for array in arrays])
    centred = rows - rows.mean(axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    products: Floats = centred @ centred.T
    return products


def _shifted_correlations(stacks: Sequence[Floats]) -> Floats:
    """(N, N): highest correlation of the slices that two stacks have in common, over all shifts with enough of them."""
    lengths = np.array([len(stack) for stack in stacks])
    most = int(lengths.max())
    values = np.zeros((len(stacks), most, stacks[0][0].size), np.float32)
    there = np.zeros((len(stacks), most), np.float32)
    for n, stack in enumerate(stacks):
        values[n, : len(stack)] = stack.reshape(len(stack), -1)
        there[n, : len(stack)] = 1
    sums, squares = values.sum(axis=2), np.square(values).sum(axis=2)
    enough = np.maximum(MIN_SLICES, OVERLAP * np.minimum(lengths[:, None], lengths))
    best = np.full((len(stacks), len(stacks)), -1, np.float32)
    for shift in range(most - MIN_SLICES + 1):
        a, b = slice(shift, most), slice(0, most - shift)
        common = there[:, a] @ there[:, b].T
        usable = common >= enough
        if not usable.any():
            continue
        count = np.maximum(common, 1) * values.shape[2]
        products = values[:, a].reshape(len(stacks), -1) @ values[:, b].reshape(len(stacks), -1).T
        mean_a, mean_b = sums[:, a] @ there[:, b].T / count, there[:, a] @ sums[:, b].T / count
        spread_a = squares[:, a] @ there[:, b].T / count - mean_a**2
        spread_b = there[:, a] @ squares[:, b].T / count - mean_b**2
        found = (products / count - mean_a * mean_b) / np.sqrt(np.maximum(spread_a * spread_b, 1e-12))
        best = np.where(usable, np.maximum(best, found), best)
    both: Floats = np.maximum(best, best.T)
    return both


def _same_steps(prints: Sequence[Fingerprint], cases: Sequence[int]) -> list[Likeness]:
    """Cases of one intensity step; one that many share is a device's or a converter's, and says nothing."""
    stepped = sorted((step, n) for n in cases if (step := prints[n].step) is not None)
    steps = np.array([step for step, _ in stepped])
    groups = np.split(np.arange(len(steps)), np.flatnonzero(steps[1:] > steps[:-1] * (1 + SAME_STEP)) + 1)
    few = min(8, max(2, len(cases) // 4))
    found = [
        Likeness("one scan", tuple(sorted(stepped[place][1] for place in group)), stepped[group[0]][0])
        for group in groups
        if 2 <= len(group) <= few
    ]
    return sorted(found, key=lambda item: item.cases)


def _joined(kind: str, names: Sequence[int], pairs: Sequence[tuple[int, int, float]]) -> list[Likeness]:
    """Sets of cases that pairs join; `names` gives the case of each index of a pair."""
    from scipy.sparse import coo_array  # a third of what a look at one scan imports
    from scipy.sparse.csgraph import connected_components

    ends = tuple(np.array([pair[:2] for pair in pairs], dtype=int).reshape(-1, 2).T)
    graph = coo_array((np.ones(len(pairs)), ends), shape=(len(names), len(names)))
    members, scores = defaultdict(list), defaultdict(list)
    for name, component in zip(names, components := connected_components(graph, directed=False)[1], strict=True):
        members[component].append(name)
    for a, _, score in pairs:
        scores[components[a]].append(score)
    return [Likeness(kind, tuple(cases), min(1.0, *scores[n])) for n, cases in members.items() if len(cases) > 1]
