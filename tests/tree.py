"""Datasets of the paper's size, of files without scans: enough for planning with a fixed spacing."""

from __future__ import annotations

import json
from pathlib import Path

CASES = {  # training, test
    "Task03_Liver": (131, 0),
    "BTCV": (30, 0),
    "Task06_Lung": (63, 33),
    "Task07_Pancreas": (281, 139),
    "Task08_HepaticVessel": (303, 140),
    "Task09_Spleen": (41, 20),
    "Task10_Colon": (126, 131),
}


def write_tree(folder: Path) -> Path:
    """Write the datasets below `folder`; returns it."""
    for name, (training, test) in CASES.items():
        _dataset(folder / name, training, test)
    return folder


def _dataset(root: Path, training: int, test: int) -> None:
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    names = [f"{root.name}_{n:04d}.nii.gz" for n in range(training + test)]
    for n, name in enumerate(names):
        (root / ("imagesTr" if n < training else "imagesTs") / name).write_bytes(b"x" * 2000 + name.encode())
        if n < training:
            (root / "labelsTr" / name).write_bytes(b"y" * 2000 + name.encode())
    description = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:training]],
        "test": [f"./imagesTs/{n}" for n in names[training:]],
    }
    (root / "dataset.json").write_text(json.dumps(description))
