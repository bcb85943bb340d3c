"""What is in a dataset or a store, as JSON-able reports. Bad data raises nothing here: it is listed under problems."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hpcseg.errors import BadInput, StoreError
from hpcseg.inspection.checking import check_store
from hpcseg.inspection.cohort import cohort_notes, likeness_notes
from hpcseg.inspection.facts import CaseFacts, measure
from hpcseg.inspection.fingerprints import Fingerprint, fingerprint
from hpcseg.inspection.likeness import find_alike
from hpcseg.inspection.pictures import Album
from hpcseg.inspection.views import CT_WINDOW, Window, choose_window, picture_scan, picture_stored
from hpcseg.spec import CaseRef
from hpcseg.volumes.datasets import Dataset, open_dataset
from hpcseg.volumes.scans import read_image, read_label
from hpcseg.volumes.store import Histogram, Store, StoredCase

BOX = 84  # voxels along a side of the boxes that measure the reading of a store
_MEASURED_S = 0.5

Part = tuple[str, CaseRef]  # "training" or "test"
Progress = Callable[[int, int, str], None]


def inspect_dataset(
    root: Path,
    foreground: Sequence[int] | Sequence[Sequence[int]] = (),
    progress: Progress | None = None,
    *,
    workers: int = 1,
    pictures: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Read every scan and label of a dataset.

    Args:
        root: folder of the dataset.
        foreground: `data.foreground`; a label without a voxel of it is a problem. (): every value but 0.
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
    report: dict[str, Any] = {"kind": "dataset", "root": str(root), "training": [], "test": []}
    report |= {"problems": [], "warnings": [], "duplicates": [], "pictures": []}
    try:
        dataset = open_dataset(root, files_must_exist=False)
    except BadInput as error:
        report["problems"].append(str(error))
        return report
    report |= {"name": dataset.name, "modality": dataset.modality, "layout": dataset.layout}
    report["labels"] = {str(value): name for value, name in dataset.labels.items()}
    if not dataset.training and not dataset.test:
        report["problems"].append(f"{root}: the dataset lists no cases; correct dataset.json")
    cases: list[Part] = [("training", case) for case in dataset.training] + [("test", case) for case in dataset.test]
    album = None if pictures is None else Album(pictures, [case.name for _, case in cases], force=force)
    wanted = {value for item in foreground for value in ([item] if isinstance(item, int) else item)}
    found: list[_Found] = []

    def examine(item: Part) -> _Found:
        return _examine(*item, dataset=dataset, wanted=wanted, album=album)

    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="inspect")
    try:
        for each in pool.map(examine, cases):
            found.append(each)
            report["problems"] += each.problems
            if progress is not None:
                progress(len(found), len(cases), each.name)
    finally:
        pool.shutdown(cancel_futures=True)
    _report_cases(report, cases, found, dataset)
    if album is not None:
        report["pictures"] = [str(path) for path in album.finish()]
    return report


def inspect_store(
    path: Path, progress: Progress | None = None, *, pictures: Path | None = None, force: bool = False
) -> dict[str, Any]:
    """Compare a store with its checksums, list its cases, and measure how fast it is read.

    Args:
        path: of the store.
        progress: called while the checksums are compared, with parts done, parts in all, name.
        pictures, force: as in `inspect_dataset`.

    Returns:
        kind "store", path, dataset, spacing_zyx (mm), classes, pyramid_clip, codec, levels, size_bytes, cases (shape,
        labelled, foreground voxels, bytes, remarks), read_speed, problems, warnings and pictures. The speed is that
        of one thread on boxes of 84³ voxels (less where a case is smaller) at random places of level 0, from the page
        cache where the file fits.

    Raises:
        BadInput: a picture exists, without `force`.
    """
    report: dict[str, Any] = {"kind": "store", "path": str(path), "cases": [], "warnings": [], "pictures": []}
    try:
        with Store(path) as store:
            album = None if pictures is None else Album(pictures, store.names, force=force)
            report["problems"] = check_store(path, progress)
            report |= {
                "dataset": str(store.attrs.get("dataset", "")),
                "spacing_zyx": list(store.spacing_zyx),
                "classes": [list(values) for values in store.classes],
                "pyramid_clip": None if store.pyramid_clip is None else list(store.pyramid_clip),
                "codec": store.codec,
                "levels": store.levels,
                "size_bytes": store.nbytes,
            }
            for name in store.names:
                entry: dict[str, Any] = {"case": name, "remarks": []}
                report["cases"].append(entry)
                try:
                    _report_stored(report, entry, store.case(name), store, album)
                except StoreError as error:
                    if not any(f"case {name!r}" in problem for problem in report["problems"]):
                        report["problems"].append(str(error))
                if any(f"case {name!r}" in problem for problem in report["problems"]):
                    entry["remarks"].insert(0, "problem")
            report["read_speed"] = _read_speed(store)
            if album is not None:
                report["pictures"] = [str(file) for file in album.finish()]
    except (StoreError, OSError) as error:
        report.setdefault("problems", []).append(str(error))
    return report


@dataclass(frozen=True, eq=False)
class _Found:
    """What reading a case gave; facts and prints are None where the scan cannot be read."""

    name: str
    problems: list[str]
    facts: CaseFacts | None = None
    prints: Fingerprint | None = None


def _examine(part: str, case: CaseRef, *, dataset: Dataset, wanted: set[int], album: Album | None) -> _Found:
    problems: list[str] = []
    label = None
    try:
        volume, grid = read_image(case.image)
        if abs(volume.strides[0]) < max(map(abs, volume.strides)):
            volume = np.ascontiguousarray(volume)  # it is gone through plane by plane
        header: Any = nib.load(case.image).header
        dtype = str(header.get_data_dtype())
    except (BadInput, MemoryError) as error:
        return _Found(case.name, [_reason(case.image, error)])
    try:
        label = None if case.label is None else read_label(case.label, grid)
    except (BadInput, MemoryError) as error:
        problems.append(_reason(case.label, error))
    facts = measure(case.name, part, volume, label, grid, dtype)
    problems += _label_problems(case, facts, dataset, wanted)
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
    prints = fingerprint(volume, grid.spacing_zyx, CT_WINDOW if dataset.is_ct else ends)
    return _Found(case.name, problems, facts, prints)


def _reason(path: Path | None, error: BadInput | MemoryError) -> str:
    if isinstance(error, BadInput):
        return str(error)
    return f"{path}: does not fit into memory; correct its header, or inspect with fewer workers or more memory"


def _label_problems(case: CaseRef, facts: CaseFacts, dataset: Dataset, wanted: set[int]) -> list[str]:
    if facts.labels is None:
        return []
    problems = []
    found = facts.labels.keys() - {0}
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


def _report_cases(report: dict[str, Any], cases: Sequence[Part], found: Sequence[_Found], dataset: Dataset) -> None:
    """Enter the cases, what they are among the others, and sets of cases that are alike."""
    readable = [each for each in found if each.facts is not None]
    facts = [each.facts for each in readable if each.facts is not None]
    alike = find_alike([each.prints for each in readable if each.prints is not None])
    notes = likeness_notes(facts, alike) + cohort_notes(facts, is_ct=dataset.is_ct, labels=dataset.labels)
    report["warnings"] = [note.text for note in notes]
    report["duplicates"] = [
        {"kind": item.kind, "cases": [facts[n].name for n in item.cases], "score": item.score} for item in alike
    ]
    remarks: dict[str, list[str]] = {each.name: ["problem"] for each in found if each.problems}
    for note in notes:
        for name in note.cases:
            remarks.setdefault(name, []).append(note.remark)
    for (part, case), each in zip(cases, found, strict=True):
        entry = {"case": case.name} if each.facts is None else each.facts.to_json()
        report[part].append(entry | {"remarks": list(dict.fromkeys(remarks.get(case.name, [])))})


def _report_stored(
    report: dict[str, Any], entry: dict[str, Any], case: StoredCase, store: Store, album: Album | None
) -> None:
    voxels = int(case.foreground_histogram[1].sum())
    entry |= {
        "shape_zyx": list(case.shape_zyx),
        "labelled": case.labelled,
        "foreground_voxels": voxels,
        "size_bytes": case.nbytes,
    }
    if case.labelled and not voxels:
        report["warnings"].append(f"case {case.name!r} is labelled, but has no foreground; take it out and pack again")
        entry["remarks"].append("no foreground")
    if album is not None:
        under = _percentiles(case, case.foreground_histogram) if voxels else None
        is_ct = store.pyramid_clip is not None
        window = choose_window(_percentiles(case, case.histogram), under, is_ct=is_ct)
        album.add(picture_stored(case, store.spacing_zyx, store.levels, window))


def _percentiles(case: StoredCase, histogram: Histogram) -> Window:
    """Intensities at 0.5 and 99.5 %."""
    codes, counts = histogram
    below = np.cumsum(counts)
    places = np.searchsorted(below, [0.005 * below[-1], 0.995 * below[-1]])
    low, high = case.decode(codes[places]).tolist()
    return low, high


def _read_speed(store: Store) -> dict[str, float] | None:
    """Read boxes at random places; None where a case cannot be read."""
    cases = [store.case(name) for name in store.names]
    if not cases:
        return None
    rng = np.random.default_rng(0)
    boxes = voxels = 0
    started = time.perf_counter()
    try:
        while (seconds := time.perf_counter() - started) < _MEASURED_S or not boxes:
            case = cases[int(rng.integers(len(cases)))]
            size = [min(BOX, n) for n in case.shape_zyx]
            start = [int(rng.integers(n - side + 1)) for n, side in zip(case.shape_zyx, size, strict=True)]
            voxels += case.read(0, start, size).size
            boxes += 1
    except StoreError:
        return None
    return {"boxes_per_s": round(boxes / seconds, 1), "mb_per_s": round(2 * voxels / seconds / 1e6, 1)}
