"""A dataset.json for a folder that has none: scans are found and read where they are; nothing is moved or copied."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import BadInput
from hpcseg.inspection.fingerprints import sample
from hpcseg.inspection.layout_guess import Guess, guess_cases
from hpcseg.inspection.pair_lists import read_pairs
from hpcseg.spec import CaseRef
from hpcseg.text import counted, listed
from hpcseg.volumes.datasets import Dataset, datasets_in, patient_of
from hpcseg.volumes.layouts import ENDINGS
from hpcseg.volumes.scans import read_image

HU_BELOW = -200.0  # intensities of air and fat; MR has none so low, z-scores neither
_LABEL_VALUES = 64
_SAMPLE = 1 << 18
_LOOKED_AT = 3  # scans that tell the modality
_SCANS_OF_ONE = 16  # scans of a patient, at most, by their names: times and sides
_CROWD = 0.45  # of the cases: where fewer groups are left, scans are alike for another reason than one patient


def guess_folder(root: Path) -> Guess:
    """What the files of a folder are, by a list of pairs in it, their names, or their content.

    Raises:
        BadInput: no scan, no label, or more than one way to read the names; datasets in folders of it.
    """
    if below := [folder.name for folder in datasets_in(root)]:
        raise BadInput(f"{root}: holds the datasets {listed(below)}; give one of them")
    scans, others = _files(root)
    if not scans:
        kinds = listed(sorted({Path(path).suffix or Path(path).name for path in others})) or "nothing"
        capitals = any(path.lower().endswith(ENDINGS) for path in others)
        remedy = "rename them to .nii and .nii.gz" if capitals else "convert scans, as with dcm2niix"
        raise BadInput(f"{root}: no NIfTI scan (.nii.gz, .nii) in it, but {kinds}; {remedy}")
    lists: dict[str, dict[str, str | None]] = {}
    for name in (path for path in others if path.endswith(".csv") and "/" not in path):
        try:
            pairs = read_pairs((root / name).read_text(encoding="utf-8", errors="replace"), scans)
        except BadInput as error:
            raise BadInput(f"{root / name}: {error}") from None
        lists |= {} if pairs is None else {name: pairs}
    if len(lists) > 1:
        raise BadInput(f"{root}: {listed(sorted(lists))} all list pairs of scans; leave one of them there")
    try:
        return guess_cases(scans, lambda path: _looks_like_label(root / path), next(iter(lists.values()), None))
    except BadInput as error:
        raise BadInput(f"{root}: {error}") from None


def undescribed_dataset(root: Path, guess: Guess) -> Dataset:
    """The dataset that a guess stands for, its labels not known yet; its modality by the first scans' content."""
    cases: dict[bool, list[CaseRef]] = {True: [], False: []}
    for case in guess.cases:
        label = None if case.label is None else root / case.label
        cases[case.part == "training"].append(CaseRef(name=case.name, image=root / case.image, label=label))
    lowest = [_lowest(case.image) for case in cases[True][:_LOOKED_AT]]
    modality = "CT" if np.median(lowest) < HU_BELOW else "MRI"
    return Dataset(root, root.name, "guessed", modality, {}, tuple(cases[True]), tuple(cases[False]))


def describe(guess: Guess, dataset: Dataset, report: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The dataset.json of a guess, in MSD layout, and what had to be left out of it.

    Args:
        guess: of the folder.
        dataset: as `undescribed_dataset` gives it.
        report: of `inspect_dataset` on it.

    Raises:
        BadInput: fewer than two patients with labels are left.
    """
    read = {
        case["case"]: case for part in ("training", "test") for case in report[part] if "problem" not in case["remarks"]
    }
    empty = [
        case.name for case in guess.of("training") if case.name in read and not {*read[case.name]["labels"]} - {"0"}
    ]
    values = sorted({int(v) for case in read.values() for v in case["labels"] or {}} - {0})
    entries: dict[str, list[dict[str, str]]] = {"training": [], "test": []}
    for case in guess.cases:
        if case.name in read and case.name not in empty:
            entry = {"name": case.name, "image": case.image} | ({} if case.label is None else {"label": case.label})
            entries["training" if case.part == "training" else "test"].append(entry)
    labelled, others = ([entry["name"] for entry in entries[part]] for part in ("training", "test"))
    groups = patient_groups([*labelled, *others], report["duplicates"], guess.in_one_folder())
    group_of = {name: number for number, group in groups.items() for name in group}
    patients = len({group_of.get(name, name) for name in labelled})
    if patients < 2:
        raise BadInput(
            f"{dataset.root}: {counted(patients, 'patient')} with a label that can be read and has voxels; two are "
            f"needed, one to learn from and one to measure by{''.join(f'; {line}' for line in report['problems'][:1])}"
        )
    notes = [f"left out: {problem}" for problem in report["problems"]]
    notes += [f"left out, no label in them: {listed(empty)}"] if empty else []
    return {
        "name": dataset.name,
        "description": f"written by hpcseg init; {guess.layout}",
        "modality": {"0": dataset.modality},
        "labels": {"0": "background"} | {str(value): f"label {value}" for value in values},
        "numTraining": len(entries["training"]),
        "numTest": len(entries["test"]),
        **entries,
        **({"patient_groups": groups} if groups else {}),
    }, notes


def patient_groups(
    names: Sequence[str], alike: Iterable[Mapping[str, Any]], together: Iterable[Iterable[str]] = ()
) -> dict[str, list[str]]:
    """Cases of likely one patient: by their names, by where they lie, and those that `inspect` finds alike.

    Names are not believed where they leave less than three patients, or a crowd as one. Nor are scans that are alike
    where most of the cases would be one patient's: scans that were registered to each other, or made by a program, are
    all alike.

    >>> patient_groups(["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3"], [])
    {'1': ['sub-1_ses-1', 'sub-1_ses-2']}

    Args:
        names: of the cases.
        alike: `duplicates` of `inspect_dataset`.
        together: sets of names whose scans lie in one patient's folder.
    """
    sure = [*named_patients(names), *together, *(item["cases"] for item in alike if item["score"] is None)]
    likely = [item["cases"] for item in alike if item["score"] is not None]
    groups = _joined(names, [*sure, *likely])
    groups = groups if len(groups) >= _CROWD * len(names) else _joined(names, sure)
    return {str(n): group for n, group in enumerate((g for g in groups if len(g) > 1), start=1)}


def named_patients(names: Sequence[str]) -> list[list[str]]:
    """Names of each patient, as `data.groups = "names"` takes them; none where that can hardly be meant."""
    patients: dict[str, list[str]] = {}
    for name in names:
        patients.setdefault(patient_of(name), []).append(name)
    found = [*patients.values()]
    return found if len(found) > 2 and max(map(len, found)) <= _SCANS_OF_ONE else []


def _joined(names: Sequence[str], sets: Iterable[Iterable[str]]) -> list[list[str]]:
    group_of = {name: [name] for name in names}
    for members in sets:
        known = [name for name in members if name in group_of]
        joined = sorted({name for member in known for name in group_of[member]})
        group_of |= dict.fromkeys(joined, joined)
    return [group for name, group in group_of.items() if group[0] == name]


def _files(root: Path) -> tuple[list[str], list[str]]:
    """Scans of a folder and of all below it, and other files; relative paths, sorted. Links to folders are followed."""
    found: list[str] = []
    seen: set[Path] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names if not name.startswith(".")]
    return [path for path in sorted(found) if path.endswith(ENDINGS)], [
        p for p in sorted(found) if not p.endswith(ENDINGS)
    ]


def _looks_like_label(path: Path) -> bool:
    """Whether voxels are few whole numbers from 0 on; not those of a scan that cannot be read."""
    try:
        volume = read_image(path)[0]
        some = np.unique(sample(volume, _SAMPLE))
        some = np.unique(volume) if len(some) == 1 else some  # a small lesion is easily missed
    except BadInput:
        return False
    return bool(some[0] == 0 and 1 < len(some) <= _LABEL_VALUES and (some == np.rint(some)).all())


def _lowest(path: Path) -> float:
    try:
        return float(read_image(path)[0].min())
    except BadInput:
        return 0.0
