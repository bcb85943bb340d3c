"""What deserves a look among the scans of a dataset: values far from the others', odd labels, likely duplicates.

Pure: works on the facts of each case. Far means more than 6 robust standard deviations (1.4826 × the median absolute
deviation, but at least a floor that stands for harmless variety) from the cohort's median. Each rule gives one
finding, however many cases it names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcseg.inspection.facts import CaseFacts
from hpcseg.inspection.likeness import Likeness
from hpcseg.text import listed

MIN_COHORT = 8  # cases below which none is an outlier
FAR = 6.0  # robust standard deviations
CT_FLOOR = 50.0  # HU; as all floors below: the least standard deviation
SHAPE_FLOOR = 0.05  # of a histogram's shape, in shares of its width
SPACING_FLOOR, EXTENT_FLOOR, LABEL_FLOOR = 0.05, 0.1, 0.25  # natural logarithms
SATURATED = 0.005  # share of the voxels at the maximum
SPECK, THIN = 10, 8  # voxels
OBLIQUE_DEG = 15.0
SHOWN, LEAKS_SHOWN = 5, 50  # cases or sets in a line


@dataclass(frozen=True)
class Finding:
    """One line about some cases, and the word that marks each of them in a table."""

    text: str
    cases: tuple[str, ...]
    remark: str


def outliers(values: ArrayLike, floor: float) -> NDArray[np.bool_]:
    """Which rows lie far from the median in any column.

    Args:
        values: (N,) or (N, K).
        floor: least standard deviation.

    Returns:
        (N,); none of fewer than 8.
    """
    table = np.asarray(values, dtype=float)
    table = table if table.ndim > 1 else table[:, None]
    if len(table) < MIN_COHORT:
        return np.zeros(len(table), dtype=bool)
    apart = np.abs(table - np.median(table, axis=0))
    far: NDArray[np.bool_] = (apart > FAR * np.maximum(floor, 1.4826 * np.median(apart, axis=0))).any(axis=1)
    return far


def cohort_findings(
    cases: Sequence[CaseFacts], *, is_ct: bool, labels: Mapping[int, str], ignore: int | None = None
) -> list[Finding]:
    """Everything about intensities, geometry and labels that deserves a look.

    Args:
        cases: all that could be read.
        is_ct: whether intensities are HU.
        labels: value -> name of dataset.json.
        ignore: label value of voxels that are left out of everything.
    """
    if not cases:
        return []
    found = _header_findings(cases) + _intensity_findings(cases, is_ct) + _geometry_findings(cases)
    labelled = [case for case in cases if case.labels is not None]
    if labelled:
        found += _label_findings(labelled, is_ct, labels, ignore)
    return [finding for finding in found if finding.cases or not finding.remark]


def likeness_findings(cases: Sequence[CaseFacts], alike: Sequence[Likeness]) -> list[Finding]:
    """What `find_alike` found among these cases; scans that training and test share come first."""
    found = []
    sure = [[cases[n] for n in item.cases] for item in alike if item.score is None]
    leaks = [members for members in sure if len({case.part for case in members}) > 1]
    if leaks:
        shown = [" = ".join(f"{case.name} ({case.part})" for case in members) for members in leaks]
        text = f"leak: training and test share voxels: {listed(shown, LEAKS_SHOWN)}; take them out of one of the two"
        found.append(Finding(text, tuple(case.name for members in leaks for case in members), "leak"))
    for kind, what, remark, remedy in _KINDS:
        sets = [[cases[n] for n in item.cases] for item in alike if item.kind == kind]
        if not sets:
            continue
        names = tuple(case.name for members in sets for case in members)
        text = f"{what}: {listed([' + '.join(case.name for case in members) for members in sets], SHOWN)}"
        if len(sets) > SHOWN:
            text += f" ({len(sets)} sets, {len(names)} cases; --json lists them)"
        differing = [members[0].name for members in sets if len({c.label_digest for c in members} - {""}) > 1]
        if kind == "identical" and differing:
            text += f" (with labels that differ: {listed(differing, SHOWN)})"
        mixed = sum(len({case.part for case in members}) > 1 for members in sets)
        text += f" ({mixed} with training and test cases)" if mixed and kind not in {"identical", "rearranged"} else ""
        found.append(Finding(f"{text}; {remedy}", names, remark))
    return found


_FOLD = "keep each set in one fold (data.groups)"
_KINDS = (
    ("identical", "identical voxels", "duplicate", "keep one of each"),
    (
        "rearranged",
        "the same voxels in another order",
        "duplicate",
        "a header's orientation is wrong; keep one of each",
    ),
    (
        "resaved",
        "likely one scan saved twice (slices alike, intensities or sampling not)",
        "likely duplicate",
        _FOLD,
    ),
    ("one scan", "likely cut from one scan (the same unusual step of intensities)", "likely one scan", _FOLD),
    ("one patient", "likely one patient (slices alike)", "likely one patient", _FOLD),
)


def _intensity_findings(cases: Sequence[CaseFacts], is_ct: bool) -> list[Finding]:
    varied = [case for case in cases if case.low < case.high]
    found = [_odd("constant image", "constant", [c for c in cases if c.low == c.high], lambda c: f"{c.low:g}")]
    if is_ct:
        positive = [case for case in varied if case.low >= 0]
        found.append(_odd("CT without a value below 0; not in HU?", "not HU?", positive, lambda c: f"from {c.low:g}"))
        far = outliers([case.percentiles[1:] for case in varied], CT_FLOOR)
    else:  # each scan has a scale of its own: compare where the median lies and how far the maximum sticks out
        far = outliers([_histogram_shape(case) for case in varied], SHAPE_FLOOR)
    usual = np.median([case.percentiles for case in varied], axis=0) if varied else (0, 0, 0)
    odd = [case for case, is_far in zip(varied, far, strict=True) if is_far]
    what = f"intensities far from the cohort's (median {usual[1]:.4g}, 99.5 % {usual[2]:.4g})"
    found.append(
        _odd(what, "intensities", odd, lambda c: f"{c.percentiles[1]:.4g}, {c.percentiles[2]:.4g}, max {c.high:.4g}")
    )
    saturated = [case for case in varied if case.at_maximum > SATURATED]
    what = f"clipped? {SATURATED:.1%} of the voxels or more have the maximum"
    return [*found, _odd(what, "clipped", saturated, lambda c: f"{c.at_maximum:.1%} at {c.high:.4g}")]


def _histogram_shape(case: CaseFacts) -> tuple[float, float]:
    low, middle, high = case.percentiles
    width = max(high - low, 1e-6 * (case.high - case.low))
    return (middle - low) / width, 0.2 * float(np.log((case.high - case.low) / width))


def _header_findings(cases: Sequence[CaseFacts]) -> list[Finding]:
    """What headers say, each thing once, with the scans of which it is said."""
    said: dict[tuple[str, str], dict[str, str]] = {}
    for case in cases:
        for note in case.notes:
            said.setdefault((note.what, note.remark), {})[case.name] = note.detail
    return [
        Finding(
            f"{what}: {listed([f'{name} ({detail})' if detail else name for name, detail in details.items()], SHOWN)}",
            tuple(details),
            remark,
        )
        for (what, remark), details in said.items()
    ]


def _geometry_findings(cases: Sequence[CaseFacts]) -> list[Finding]:
    spacings = np.array([case.spacing_zyx for case in cases])
    extents = spacings * np.array([case.shape_zyx for case in cases])
    codes = Counter(case.orientation for case in cases)
    lost = [case for case in cases if case.spacing_zyx == (1.0, 1.0, 1.0)]
    found = [
        _far("spacing", "spacing", cases, spacings, SPACING_FLOOR, "mm (z, y, x)"),
        _far("extent", "extent", cases, extents, EXTENT_FLOOR, "mm (z, y, x)"),
        _odd("fewer than 8 voxels along an axis", "thin", [c for c in cases if min(c.shape_zyx) < THIN], _shape),
        _odd(
            "oblique", "oblique", [c for c in cases if c.oblique_deg > OBLIQUE_DEG], lambda c: f"{c.oblique_deg:.0f}°"
        ),
    ]
    if len(lost) < len(cases) / 2:
        found.append(_odd("spacing of exactly 1 mm on all axes; lost header?", "spacing", lost, _shape))
    if len(codes) > 1:
        rare = [case for case in cases if case.orientation != codes.most_common(1)[0][0]]
        counts = ", ".join(f"{code} {count}" for code, count in codes.most_common())
        found.append(_odd(f"orientations on disk are mixed ({counts})", "orientation", rare, lambda c: c.orientation))
    return found


def _label_findings(
    cases: Sequence[CaseFacts], is_ct: bool, labels: Mapping[int, str], ignore: int | None
) -> list[Finding]:
    found = []
    for value in sorted((labels.keys() | {v for case in cases for v in case.labels or ()}) - {0, ignore}):
        name = f"label {value} ({labels.get(value, 'not in dataset.json')})"
        there = [case for case in cases if case.voxels(value)]
        if not there:
            found.append(Finding(f"{name} of dataset.json never occurs", (), ""))
            continue
        absent = [case for case in cases if not case.voxels(value)]
        if len(cases) >= MIN_COHORT and len(absent) <= len(cases) / 10:
            found.append(_odd(f"{name} is missing", "label missing", absent))
        volumes = np.array([case.voxels(value) * case.voxel_ml for case in there])
        found.append(_far(f"volume of {name}", "label volume", there, volumes[:, None], LABEL_FLOOR, "ml"))
        specks = [case for case in there if case.voxels(value) < SPECK]
        found.append(_odd(f"{name} has fewer than {SPECK} voxels", "speck", specks))
    inside = [case for case in cases if case.under_label is not None and case.low < case.high]
    middles = [_under_label(case, is_ct) for case in inside]
    far = outliers(middles, CT_FLOOR if is_ct else SHAPE_FLOOR)
    off = [case for case, is_far in zip(inside, far, strict=True) if is_far]
    what = "intensity under the label far from the cohort's; does the label fit?"
    found.append(_odd(what, "label fit?", off, lambda c: f"median {c.under_label[1]:.4g}" if c.under_label else ""))
    cut = [case for case in cases if case.label_at_edge]
    if len(cut) <= len(cases) / 4:
        found.append(_odd("label touches the volume's edge; cut off?", "label cut", cut))
    return found


def _under_label(case: CaseFacts, is_ct: bool) -> float:
    (_, value, _), (low, _, high) = case.under_label or case.percentiles, case.percentiles
    return value if is_ct else (value - low) / max(high - low, 1e-6 * (case.high - case.low))


def _far(what: str, remark: str, cases: Sequence[CaseFacts], values: NDArray[Any], floor: float, unit: str) -> Finding:
    """Outliers of sizes, which differ by factors; `values` (N, K) are positive."""
    far = [int(n) for n in np.flatnonzero(outliers(np.log(values), floor))]
    shown = [f"{cases[n].name} ({_product(values[n])})" for n in far]
    text = f"{what} far from the cohort's {_product(np.median(values, axis=0))} {unit}: {listed(shown, SHOWN)}"
    return Finding(text, tuple(cases[n].name for n in far), remark)


def _product(values: Iterable[float]) -> str:
    return " × ".join(f"{value:.3g}" for value in values)


def _shape(case: CaseFacts) -> str:
    return _product(case.shape_zyx)


def _odd(what: str, remark: str, cases: Sequence[CaseFacts], more: Callable[[CaseFacts], str] | None = None) -> Finding:
    shown = [case.name if more is None else f"{case.name} ({more(case)})" for case in cases]
    return Finding(f"{what}: {listed(shown, SHOWN)}", tuple(case.name for case in cases), remark)
