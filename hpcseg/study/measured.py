"""What `init` knows of a dataset and of the machine when it chooses keys: from `inspect`'s report to facts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from hpcseg.errors import BadInput
from hpcseg.inspection.unprepared import named_patients, patient_groups
from hpcseg.spec import Spacing
from hpcseg.text import listed, word
from hpcseg.volumes.datasets import Dataset, all_groups, case_groups

_SD_WIDTH = 5.0  # standard deviations between the 0.5 and 99.5 percentiles of a normal distribution
_PAIRS_SAY = 3  # pairs that are found alike from which on numbering is believed


@dataclass(frozen=True)
class DatasetFacts:
    """What was measured.

    Attributes:
        name: of the dataset's folder.
        is_ct: whether intensities are HU.
        labels: foreground label value -> name.
        label_ml: label value -> median volume where it occurs.
        spacing_zyx, shape_zyx: medians of the labelled scans, mm and voxels.
        foreground_share: median share of a scan's voxels that are foreground.
        foreground_ends: 0.5 and 99.5 % of the intensities under labels, medians over scans.
        foreground_spread: how far medians under labels lie apart, in standard deviations of each scan's intensities.
        groups: training case -> its group.
        groups_key, groups_reason: value of `data.groups` that gives these, and why.
        unlabelled, test: scans without a label, and labelled scans that are set aside.
        gpu_gib: memory of the GPU; None: a CPU trains.
        notes: what its owner should look at.
    """

    name: str
    is_ct: bool
    labels: Mapping[int, str]
    label_ml: Mapping[int, float]
    spacing_zyx: Spacing
    shape_zyx: tuple[float, float, float]
    foreground_share: float
    foreground_ends: tuple[float, float]
    groups: Mapping[str, str]
    foreground_spread: float = 0.0
    groups_key: str = ""
    groups_reason: str = "no two scans look like one patient's"
    unlabelled: int = 0
    test: int = 0
    gpu_gib: float | None = None
    notes: tuple[str, ...] = ()


def read_facts(dataset: Dataset, report: Mapping[str, Any], gpu_gib: float | None) -> DatasetFacts:
    """The facts of a dataset.

    Args:
        dataset: that was inspected.
        report: of `inspect_dataset`.
        gpu_gib: memory of the GPU that will train; None for a CPU.

    Raises:
        BadInput: fewer than two labelled cases that can be read, or no foreground in any.
    """
    cases = [case for case in report["training"] if case.get("labels")]
    filled = [case for case in cases if case["label_intensities"]]
    volumes = {value: [ml for case in filled if (ml := case["label_ml"].get(str(value)))] for value in dataset.labels}
    labels = {v: name for v, name in dataset.labels.items() if volumes[v] and v not in (0, dataset.ignore)}
    if len(cases) < 2 or not labels:
        raise BadInput(
            f"{dataset.root}: {len(filled)} of {len(dataset.training)} labelled cases can be read and have foreground; "
            f"two are needed, one to learn from and one to measure by; see hpcseg inspect {word(dataset.root)}"
        )
    spacing, shape = (np.median([case[key] for case in cases], axis=0).tolist() for key in ("spacing_zyx", "shape_zyx"))
    ends = np.median([[case["label_intensities"][end] for end in ("0.5", "99.5")] for case in filled], axis=0)
    standing = [_standing(case) for case in filled]
    key, reason, notes = _groups(dataset, report["duplicates"])
    return DatasetFacts(
        name=dataset.root.name,
        is_ct=dataset.is_ct,
        labels=labels,
        label_ml={value: median(volumes[value]) for value in labels},
        spacing_zyx=tuple(spacing),
        shape_zyx=tuple(shape),
        foreground_share=median(_foreground(case, labels) / np.prod(case["shape_zyx"]) for case in filled),
        foreground_ends=(float(ends[0]), float(ends[1])),
        foreground_spread=max(standing) - min(standing),
        groups=case_groups(dataset, key),
        groups_key=key,
        groups_reason=reason,
        unlabelled=sum(case.label is None for case in dataset.test),
        test=sum(case.label is not None for case in dataset.test),
        gpu_gib=gpu_gib,
        notes=(*notes, *_across(dataset, all_groups(dataset, key), report["duplicates"])),
    )


def _foreground(case: Mapping[str, Any], labels: Iterable[int]) -> int:
    return sum(case["labels"].get(str(value), 0) for value in labels)


def _standing(case: Mapping[str, Any]) -> float:
    """Where the median under the label lies among a scan's intensities, in standard deviations from the median."""
    low, middle, high = case["intensity_percentiles"].values()
    return float((case["label_intensities"]["50"] - middle) / max((high - low) / _SD_WIDTH, 1e-6))


def _across(dataset: Dataset, groups: Mapping[str, str], alike: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Scans outside training that are, or are likely of, a training case's patient, and no group says so: what is
    measured by the one would learn from the other."""
    training, others = ({case.name for case in part} for part in (dataset.training, dataset.test))
    sets = [item["cases"] for item in alike if len({groups[name] for name in item["cases"] if name in groups}) > 1]
    if shared := [" + ".join(names) for names in sets if training & {*names} and others & {*names}]:
        yield (
            f"training scans and others of likely one patient: {listed(shared)}; what is measured by the one may learn "
            f"from the other: list them in patient_groups (data.groups), or take one of them out of {dataset.root}"
        )


def _groups(dataset: Dataset, alike: Iterable[Mapping[str, Any]]) -> tuple[str, str, tuple[str, ...]]:
    """Value of `data.groups`, its reason, and what is to be said."""
    for path in sorted(dataset.root.glob("*.json")):
        with contextlib.suppress(BadInput):
            groups = all_groups(dataset, path.name)
            if len({*groups.values()}) < len(groups):
                patients = len({groups[case.name] for case in dataset.training})
                return path.name, f"its patient_groups; {patients} patients with labels", ()
    names = [case.name for case in (*dataset.training, *dataset.test)]
    if 0 < (patients := len(named_patients(names))) < len(names):
        return "names", f"{patients} patients by the names of the cases", ()
    names = [case.name for case in dataset.training]
    sets = [*patient_groups(names, alike).values()]
    if len(sets) >= _PAIRS_SAY and all(re.search(r"\d$", name) for name in names):
        pairs = case_groups(dataset, "pairs")
        if sum(len({pairs[name] for name in found}) == 1 for found in sets) >= 0.9 * len(sets):
            return "pairs", f"{len(sets)} sets of scans are likely one patient's, numbered 2k-1 and 2k", ()
    if not sets:
        return "", "no two scans look like one patient's", ()
    some = "; ".join(" + ".join(found) for found in sets[:3])
    note = (
        f"likely one patient: {some}{' and more' if len(sets) > 3 else ''}; where that is so, list them in a JSON file "
        f'in {dataset.root} as {{"patient_groups": {{"1": ["case", ...]}}}} and set data.groups to its name'
    )
    return "", f"{len(sets)} sets of scans are likely one patient's; list them, see docs/keys.md", (note,)
