"""Records of Slurm arrays that were not submitted."""

from __future__ import annotations

from pathlib import Path

from hpcseg.paths import array_folder
from hpcseg.runs.records import ArrayRecord, write_array


def write_new_array(runs_root: Path, record: ArrayRecord) -> None:
    """Write `array.json` of an array, and make its folder."""
    array_folder(runs_root, record.tag).mkdir(parents=True, exist_ok=True)
    write_array(runs_root, record)
