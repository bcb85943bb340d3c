"""Lists of images and their labels in a CSV file of the folder. Pure."""

from __future__ import annotations

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
        text: a first line that names the columns image and label, or scans in the first two columns of all lines.
        there: paths of the scans that exist.

    Raises:
        BadInput: a line names a scan that is not there, no image, or one twice.
    """
    rows = [[cell.strip() for cell in row] for row in csv_rows(text)]
    head = [cell.lower() for cell in rows[0]] if rows else []
    columns = [next((head.index(name) for name in names if name in head), -1) for names in _COLUMNS]
    if -1 in columns:
        if len(head) < 2 or not all(cell.endswith(ENDINGS) for cell in head[:2]):
            return None
        columns, head = [0, 1], []
    known, pairs = {*there}, dict[str, str | None]()
    for number, row in enumerate(rows[bool(head) :], start=1 + bool(head)):
        image, label = (row[at].removeprefix("./") if at < len(row) else "" for at in columns)
        if not image or image in pairs:
            raise BadInput(f"line {number} names {f'{image!r} again' if image else 'no image'}; correct it")
        if missing := [path for path in (image, label) if path and path not in known]:
            raise BadInput(f"line {number}: no scan {missing[0]!r} in the folder; paths are relative to it")
        pairs[image] = label or None
    return pairs
