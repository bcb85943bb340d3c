"""What is in a dataset, as JSON. Bad data raises nothing here: it is listed under problems."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hpcseg.errors import BadInput
from hpcseg.inspection.cohort import cohort_findings, likeness_findings
from hpcseg.inspection.facts import CaseFacts, measure
from hpcseg.inspection.fingerprints import Fingerprint, fingerprint
from hpcseg.inspection.likeness import find_alike
from hpcseg.inspection.pictures import Album
from hpcseg.inspection.views import CT_WINDOW, choose_window, picture_scan
from hpcseg.spec import CaseRef
from hpcseg.text import counted
from hpcseg.volumes.datasets import Dataset, Progress, datasets_in, open_dataset, scan_name
from hpcseg.volumes.scans import read_image, read_label

Part = tuple[str, CaseRef]  # "training", "test" or "scan"


def list_datasets(folder: Path) -> dict[str, Any]:
    """The datasets inside a folder, by what their descriptions say; nothing where there is none.

    Returns:
        kind "datasets", root, datasets (name, layout, modality, cases, labels of each), problems (one line each).
    """
    found: list[dict[str, Any]] = []
    problems = []
    for root in datasets_in(folder):
        try:
            dataset = open_dataset(root, files_must_exist=False)
        except BadInput as error:
            problems.append(str(error))
            continue
        counts = {"training": len(dataset.training), "test": len(dataset.test)}
        names = ", ".join(f"{value} {name}" for value, name in sorted(dataset.labels.items()) if value)
        about = {"folder": root.name, "layout": dataset.layout, "modality": dataset.modality}
        found.append(about | counts | {"labels": names})
    return {"kind": "datasets", "root": str(folder), "datasets": found, "problems": problems}


def inspect_dataset(
    root: Path | Dataset,
    progress: Progress | None = None,
    *,
    workers: int = 1,
    pictures: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Read every scan and label of a dataset.

    Args:
        root: folder of the dataset, or the dataset, whose labels need not be known.
        progress: called after every case with cases done, cases in all, name.
        workers: threads that read; each holds one volume.
        pictures: folder for a PNG of each case and contact sheets; None: none.
        force: replace pictures that exist.

    Returns:
        kind "dataset", root, name, modality, layout, labels, training and test (lists of cases: `CaseFacts` with the
        label volumes in ml and the words that remark on the case), problems (one line each), warnings (one line for
        each thing that deserves a look), duplicates (sets of cases that are or may be the same) and pictures (paths).

    Raises:
        BadInput: a picture exists, without `force`.
    """
    folder = root.root if isinstance(root, Dataset) else root
    findings: dict[str, Any] = {"kind": "dataset", "root": str(folder), "training": [], "test": []}
    findings |= {"problems": [], "warnings": [], "duplicates": [], "pictures": []}
    try:
        dataset = root if isinstance(root, Dataset) else open_dataset(root, files_must_exist=False)
    except BadInput as error:
        findings["problems"].append(str(error))
        return findings
    findings |= {"name": dataset.name, "modality": dataset.modality, "layout": dataset.layout}
    findings["labels"] = {str(value): name for value, name in dataset.labels.items()}
    cases: list[Part] = [("training", case) for case in dataset.training] + [("test", case) for case in dataset.test]
    album = None if pictures is None else Album(pictures, [case.name for _, case in cases], force=force)
    found: list[_Examined] = []
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="inspect")
    try:
        for each in pool.map(functools.partial(_examine, dataset, album), cases):
            found.append(each)
            findings["problems"] += each.problems
            if progress is not None:
                progress(len(found), len(cases), each.name)
    finally:
        pool.shutdown(cancel_futures=True)
    _add_cases(findings, cases, found, dataset)
    if album is not None:
        findings["pictures"] = [str(path) for path in album.finish()]
    return findings


def inspect_scan(
    path: Path, label: Path | None = None, *, pictures: Path | None = None, force: bool = False
) -> dict[str, Any]:
    """Read one scan, and its label where there is one: `label`, or that of the dataset in which the scan lies.

    Returns:
        kind "scan", path, label, what is measured of it as of a case (`CaseFacts`), unit (of length, in the header),
        problems, warnings and pictures.

    Raises:
        BadInput: a picture exists, without `force`.
    """
    dataset, case = _of_dataset(path)
    case = case if label is None else case.model_copy(update={"label": label})
    album = None if pictures is None else Album(pictures, [case.name], force=force)
    found = _examine(dataset, album, ("scan", case), alone=True)
    findings: dict[str, Any] = {
        "kind": "scan",
        "path": str(path),
        "label": None if case.label is None else str(case.label),
    }
    findings |= {
        "scan": [{"case": case.name, "remarks": []}],
        "problems": found.problems,
        "warnings": [],
        "pictures": [],
    }
    if found.facts is not None:
        remarks = [note.remark for note in found.facts.notes]
        findings["scan"] = [found.facts.to_json() | {"remarks": ["problem"] * bool(found.problems) + remarks}]
        findings["unit"] = found.unit or "not given, taken for mm"
        findings["warnings"] = [str(note) for note in found.facts.notes]
    if album is not None and found.facts is not None:
        findings["pictures"] = [str(file) for file in album.finish()]
    return findings


def _of_dataset(path: Path) -> tuple[Dataset, CaseRef]:
    """The dataset in which a scan lies, and its case there; an empty dataset and a case without a label otherwise."""
    with contextlib.suppress(BadInput, IndexError):  # IndexError: it lies directly below the root
        dataset = open_dataset(path.absolute().parents[1], files_must_exist=False)
        for case in (*dataset.training, *dataset.test):
            if case.image.absolute() == path.absolute():
                return dataset, case
    return Dataset(path.parent, "", "", "", {}, (), ()), CaseRef(name=scan_name(path), image=path)


@dataclass(frozen=True, eq=False)
class _Examined:
    """What reading a case gave; facts and prints are None where the scan cannot be read."""

    name: str
    problems: list[str]
    facts: CaseFacts | None = None
    prints: Fingerprint | None = None
    unit: str = ""


def _examine(dataset: Dataset, album: Album | None, item: Part, *, alone: bool = False) -> _Examined:
    """Read a case; `alone`: it is compared with no other."""
    part, case = item
    problems: list[str] = []
    label = None
    try:
        volume, grid = read_image(case.image)
        if abs(volume.strides[0]) < max(map(abs, volume.strides)):
            volume = np.ascontiguousarray(volume)  # it is gone through plane by plane
    except (BadInput, MemoryError) as error:
        return _Examined(case.name, [_reason(case.image, error)])
    try:
        label = None if case.label is None else read_label(case.label, grid)
    except (BadInput, MemoryError) as error:
        problems.append(_reason(case.label, error))
    image: Any = nib.load(case.image)
    dtype = str(image.get_data_dtype())
    facts = measure(case.name, part, volume, label, grid, dtype, dataset.ignore)
    if dataset.labels:
        problems += _label_problems(case, facts, dataset)
    ends = (facts.percentiles[0], facts.percentiles[2])
    if album is not None:
        under = facts.under_label and (facts.under_label[0], facts.under_label[2])
        picture = picture_scan(
            case.name,
            volume,
            label,
            grid.spacing_zyx,
            note=f"{facts.orientation}, {dtype}",
            window=choose_window(ends, under, is_ct=dataset.is_ct),
            labels={value: f"{value} {name}" for value, name in dataset.labels.items()},
        )
        album.add(picture)
    if alone:
        return _Examined(case.name, problems, facts, unit=grid.unit)
    prints = fingerprint(volume, grid.spacing_zyx, CT_WINDOW if dataset.is_ct else ends)
    return _Examined(case.name, problems, facts, prints)


def _reason(path: Path | None, error: BadInput | MemoryError) -> str:
    if isinstance(error, BadInput):
        return str(error)
    return f"{path}: does not fit into memory; correct its header, or inspect with fewer workers or more memory"


def _label_problems(case: CaseRef, facts: CaseFacts, dataset: Dataset) -> list[str]:
    if facts.labels is None:
        return []
    found = facts.labels.keys() - {0, dataset.ignore}
    if not found:
        return [f"{case.label}: empty foreground: no voxel of a label but 0; take the case out of dataset.json"]
    unknown = sorted(found - dataset.labels.keys())
    where = "are not in dataset.json; add them there or correct the label"
    return [f"{case.label}: label values {unknown} {where}"] if unknown else []


def _ignored(cases: Sequence[CaseFacts], dataset: Dataset) -> Iterator[str]:
    """What is said of nnU-Net's reserved label."""
    if dataset.ignore is not None:
        shares = [case.voxels(dataset.ignore) * case.voxel_ml for case in cases if case.voxels(dataset.ignore)]
        yield (
            f"label {dataset.ignore} ({dataset.labels[dataset.ignore]}) is nnU-Net's reserved one: its voxels "
            f"({sum(shares):.4g} ml in {counted(len(shares), 'case')}) are left out of loss, sampling, statistics "
            "and metrics"
        )


def _add_cases(findings: dict[str, Any], cases: Sequence[Part], found: Sequence[_Examined], dataset: Dataset) -> None:
    """Enter the cases, what they are among the others, and sets of cases that are alike."""
    facts = [each.facts for each in found if each.facts is not None]
    alike = find_alike([each.prints for each in found if each.prints is not None])
    noticed = likeness_findings(facts, alike) + cohort_findings(
        facts, is_ct=dataset.is_ct, labels=dataset.labels, ignore=dataset.ignore
    )
    findings["warnings"] = [*dataset.notes, *_ignored(facts, dataset), *(finding.text for finding in noticed)]
    findings["duplicates"] = [
        {"kind": item.kind, "cases": [facts[n].name for n in item.cases], "score": item.score} for item in alike
    ]
    remarks: dict[str, list[str]] = {each.name: ["problem"] for each in found if each.problems}
    for finding in noticed:
        for name in finding.cases:
            remarks.setdefault(name, []).append(finding.remark)
    for (part, case), each in zip(cases, found, strict=True):
        entry = {"case": case.name} if each.facts is None else each.facts.to_json()
        findings[part].append(entry | {"remarks": list(dict.fromkeys(remarks.get(case.name, [])))})
