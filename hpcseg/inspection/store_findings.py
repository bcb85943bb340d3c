"""What is in a store, and whether it is as it was packed: every byte of the file is compared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import StoreError
from hpcseg.inspection.pictures import Album
from hpcseg.inspection.views import choose_window, picture_stored
from hpcseg.volumes.datasets import Progress
from hpcseg.volumes.normalise import histogram_percentiles
from hpcseg.volumes.seal import file_digest, read_seal
from hpcseg.volumes.store import LEVELS, Store

BOX = 84  # voxels along a side of the boxes that measure the reading of a store
_MEASURED_S = 0.5
_ENDS = (0.5, 99.5)  # percentiles between which a case is shown


def inspect_store(
    path: Path, progress: Progress | None = None, *, pictures: Path | None = None, force: bool = False
) -> dict[str, Any]:
    """Compare a store with its checksums, list its cases, and measure how fast it is read.

    Args:
        path: of the store.
        progress: called while the checksums are compared, with parts done, parts in all, name.
        pictures: folder for a PNG of each case and contact sheets; None: none.
        force: replace pictures that exist.

    Returns:
        kind "store", path, dataset, spacing_zyx (mm), classes, pyramid_clip, codec, levels, size_bytes, cases (shape,
        labelled, foreground voxels, bytes, remarks), read_speed, problems, warnings and pictures. The speed is that
        of one thread on boxes of 84³ voxels (less where a case is smaller) at random places of level 0, from the page
        cache where the file fits.

    Raises:
        BadInput: a picture exists, without `force`.
    """
    findings: dict[str, Any] = {"kind": "store", "path": str(path), "cases": [], "warnings": [], "pictures": []}
    try:
        with Store(path) as store:
            album = None if pictures is None else Album(pictures, store.names, force=force)
            findings["problems"] = check_store(path, progress)
            findings |= {
                "dataset": str(store.attrs.get("dataset", "")),
                "spacing_zyx": list(store.spacing_zyx),
                "classes": [list(values) for values in store.classes],
                "pyramid_clip": None if store.pyramid_clip is None else list(store.pyramid_clip),
                "codec": store.codec,
                "levels": LEVELS,
                "size_bytes": store.nbytes,
            }
            for name in store.names:
                _add_case(findings, store, name, album)
            findings["read_speed"] = _read_speed(store)
            if album is not None:
                findings["pictures"] = [str(file) for file in album.finish()]
    except (StoreError, OSError) as error:
        findings.setdefault("problems", []).append(str(error))
    return findings


def check_store(path: Path, progress: Progress | None = None) -> list[str]:
    """Compare every byte of a store with what was packed; reads all of the file.

    Args:
        path: of the store.
        progress: called with parts done, parts in all, name of the file.

    Returns:
        One line per problem; empty if the store is as it was packed.
    """
    try:
        with Store(path) as store:
            if file_digest(path, progress) == read_seal(path).digest:
                return []
            found = [
                f"{path}: case {name!r}: {problem}; delete the store and pack again"
                for name in store.names
                for problem in store.case(name).problems()
            ]
            return found or [
                f"{path}: HDF5's own structures were altered, a key may be missing; delete the store and pack again"
            ]
    except StoreError as error:
        return [str(error)]
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror or error})"]


def _add_case(findings: dict[str, Any], store: Store, name: str, album: Album | None) -> None:
    """Enter what is found in a case, and draw it."""

    def known() -> bool:
        return any(f"case {name!r}" in problem for problem in findings["problems"])

    entry: dict[str, Any] = {"case": name, "remarks": []}
    findings["cases"].append(entry)
    try:
        case = store.case(name)
        voxels = int(case.foreground_histogram[1].sum())
        entry |= {
            "shape_zyx": list(case.shape_zyx),
            "labelled": case.labelled,
            "foreground_voxels": voxels,
            "size_bytes": case.nbytes,
        }
        if case.ignored:
            entry["ignored_voxels"] = case.ignored
            entry["remarks"].append(f"{case.ignored:,} voxels ignored")
        if case.labelled and not voxels:
            findings["warnings"].append(f"case {name!r} is labelled, but has no foreground; take it out and pack again")
            entry["remarks"].append("no foreground")
        if album is not None:
            under = histogram_percentiles(case.foreground_histogram, _ENDS) if voxels else None
            is_ct = store.pyramid_clip is not None
            window = choose_window(histogram_percentiles(case.histogram, _ENDS), under, is_ct=is_ct)
            album.add(picture_stored(case, store.spacing_zyx, window))
    except StoreError as error:
        if not known():
            findings["problems"].append(str(error))
    if known():
        entry["remarks"].insert(0, "problem")


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
