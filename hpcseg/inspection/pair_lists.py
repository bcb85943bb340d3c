"""Lists of images and their labels in a CSV file of the folder. Pure."""

from __future__ import annotations

import csv
from collections.abc import Iterable

from hpcseg.errors import BadInput
from hpcseg.text import csv_rows
from hpcseg.volumes.layouts import ENDINGS

_COLUMNS = (("image", "img", "scan", "volume"), ("label", "seg", "segmentation", "mask"))


def read_pairs(text: str, there: Iterable[str]) -> dict[str, str | None] | None:
    """The pairs of a CSV file, by image; None where it lists none.

    >>> read_pairs("image,label\\na.nii,a_seg.nii\\nb.nii,\\n", ["a.nii", "a_seg.nii", "b.nii"])
    {'a.nii': 'a_seg.nii', 'b.nii': None}

    Args:
        text: a first line that names the columns image and label (or img, scan, volume; seg, segmentation, mask), or
            scans in the first two columns of all lines.
        there: paths of the scans that exist.

    Raises:
        BadInput: it is no CSV, or a line names a scan that is not there, no image, or a scan twice.
    """
    try:
        return _pairs(text, {*there})
    except csv.Error as error:
        raise BadInput(f"cannot be read as CSV ({error}); take it out of the folder if it is no list") from None


def _pairs(text: str, there: set[str]) -> dict[str, str | None] | None:
    rows = [[cell.strip() for cell in row] for row in csv_rows(text)]
    head = [cell.lower() for cell in rows[0]] if rows else []
    columns = [next((head.index(name) for name in names if name in head), -1) for names in _COLUMNS]
    if -1 in columns:
        if len(head) < 2 or not all(cell.endswith(ENDINGS) for cell in head[:2]):
            return None
        columns, head = [0, 1], []
    elif not any(_is_scan(row[columns[0]], there) for row in rows[1:] if columns[0] < len(row)):
        return None  # measured volumes, say, or classes
    named, pairs = set[str](), dict[str, str | None]()
    for number, row in enumerate(rows[bool(head) :], start=1 + bool(head)):
        image, label = (row[at].removeprefix("./") if at < len(row) else "" for at in columns)
        if not image or image in named:
            raise BadInput(f"line {number} names {f'{image!r} again' if image else 'no image'}; correct it")
        if missing := [path for path in (image, label) if path and path not in there]:
            raise BadInput(f"line {number}: no scan {missing[0]!r} in the folder; paths are relative to it")
        if label and (label == image or label in named):
            raise BadInput(f"line {number} names {label!r} again; correct it")
        named |= {image, label}
        pairs[image] = label or None
    return pairs


def _is_scan(cell: str, there: set[str]) -> bool:
    """Whether a cell is called as NIfTI files are, or as one that is there but for its ending."""
    return cell.endswith(ENDINGS) or any(f"{cell}{ending}" in there for ending in ENDINGS)
