"""What is in a dataset or a store, as JSON-able reports. Bad data raises nothing here: it is listed under problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import BadInput, StoreError
from hpcseg.spec import CaseRef
from hpcseg.volumes.datasets import Dataset, open_dataset
from hpcseg.volumes.scans import read_image, read_label
from hpcseg.volumes.store import Store, verify

Progress = Callable[[int, int, str], None]


def inspect_dataset(
    root: Path, foreground: Sequence[int] | Sequence[Sequence[int]] = (), progress: Progress | None = None
) -> dict[str, Any]:
    """Read every scan and label of a dataset.

    Args:
        root: folder of the dataset.
        foreground: `data.foreground`; a label without a voxel of it is a problem. (): every value but 0.
        progress: called after every case with cases done, cases in all, name.

    Returns:
        kind "dataset", root, name, modality, layout, labels, training and test (lists of cases: shape, spacing in mm,
        intensity range, voxels per label value) and problems (one line each).
    """
    report: dict[str, Any] = {"kind": "dataset", "root": str(root), "training": [], "test": [], "problems": []}
    try:
        dataset = open_dataset(root, files_must_exist=False)
    except BadInput as error:
        report["problems"].append(str(error))
        return report
    report |= {"name": dataset.name, "modality": dataset.modality, "layout": dataset.layout}
    report["labels"] = {str(value): name for value, name in dataset.labels.items()}
    if not dataset.training and not dataset.test:
        report["problems"].append(f"{root}: the dataset lists no cases; correct dataset.json")
    wanted = {value for item in foreground for value in ([item] if isinstance(item, int) else item)}
    total = len(dataset.training) + len(dataset.test)
    for part, cases in (("training", dataset.training), ("test", dataset.test)):
        for case in cases:
            try:
                entry = _inspect_case(case)
                report["problems"] += _label_problems(case, entry, dataset, wanted)
                report[part].append(entry)
            except BadInput as error:
                report["problems"].append(str(error))
                report[part].append({"case": case.name})
            if progress is not None:
                progress(len(report["training"]) + len(report["test"]), total, case.name)
    return report


def inspect_store(path: Path) -> dict[str, Any]:
    """Read a store's cases and compare them with their checksums.

    Returns:
        kind "store", path, dataset, spacing_zyx (mm), classes, pyramid_clip, cases (shape, labelled, foreground voxels)
        and problems (one line each).
    """
    report: dict[str, Any] = {"kind": "store", "path": str(path), "cases": [], "problems": []}
    try:
        store = Store(path)
    except StoreError as error:
        report["problems"].append(str(error))
        return report
    with store:
        report |= {
            "dataset": str(store.attrs.get("dataset", "")),
            "spacing_zyx": list(store.spacing_zyx),
            "classes": [list(values) for values in store.classes],
            "pyramid_clip": None if store.pyramid_clip is None else list(store.pyramid_clip),
        }
        report["problems"] += verify(store)
        for name in store.names:
            try:
                case = store.case(name)
                entry = {"case": name, "shape_zyx": list(case.shape_zyx), "labelled": case.labelled}
                entry["foreground_voxels"] = int(case.foreground_histogram[1].sum())
                report["cases"].append(entry)
            except StoreError as error:
                if str(error) not in report["problems"]:
                    report["problems"].append(str(error))
    return report


def _inspect_case(case: CaseRef) -> dict[str, Any]:
    volume, grid = read_image(case.image)
    entry: dict[str, Any] = {
        "case": case.name,
        "shape_zyx": list(grid.shape_zyx),
        "spacing_zyx": [round(size, 6) for size in grid.spacing_zyx],
        "intensity_min": float(volume.min()),
        "intensity_max": float(volume.max()),
        "labels": None,
    }
    if case.label is not None:
        counts = np.bincount(read_label(case.label, grid).ravel())
        entry["labels"] = {str(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return entry


def _label_problems(case: CaseRef, entry: dict[str, Any], dataset: Dataset, wanted: set[int]) -> list[str]:
    if entry["labels"] is None:
        return []
    problems = []
    found = {int(value) for value in entry["labels"]} - {0}
    unknown = sorted(found - dataset.labels.keys())
    if unknown:
        problems.append(
            f"{case.label}: label values {unknown} are not in dataset.json; add them there or correct the label"
        )
    if not (found & wanted if wanted else found):
        values = sorted(wanted) or "all but 0"
        problems.append(
            f"{case.label}: empty foreground: no voxel of data.foreground ({values}); "
            "take the case out of dataset.json or change data.foreground"
        )
    return problems
