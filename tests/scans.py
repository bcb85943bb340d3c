"""Fixtures for several rooms: small NIfTI scans and specifications for packing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hpcseg.inference.restoring import restored
from hpcseg.spec import PackSpec
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.preprocess import Preprocessed

SpecMaker = Callable[..., PackSpec]
ScanWriter = Callable[..., Path]


def restore(scan: Preprocessed, values_zyx: np.ndarray) -> np.ndarray:
    """Values on the network's grid, back on all of the scan's."""
    slabs = restored(iter([values_zyx[None]]), (1, *values_zyx.shape), scan.crop, scan.grid.shape_zyx)
    return np.concatenate([slab[0] for _, slab in slabs])


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset that may be broken."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "Tiny"))


@pytest.fixture(scope="session")
def write_scan() -> ScanWriter:
    """Write an array (x, y, z) as NIfTI; 1 mm, RAS, unless an affine is given."""

    def write(path: Path, array_xyz: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array_xyz, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture(scope="session")
def make_spec() -> SpecMaker:
    """Specification that packs all cases of a dataset as CT; keywords replace its fields."""

    def make(root: Path, **changes: Any) -> PackSpec:
        dataset = open_dataset(root)
        fields: dict[str, Any] = {
            "id": "pack-test",
            "dataset": dataset.name,
            "cases": dataset.training + dataset.test,
            "spacing_zyx": (2.0, 2.0, 2.0),
            "classes": ((1, 2),),
            "padding": -1000.0,
            "pyramid_clip": (-200.0, 400.0),
        }
        return PackSpec(**(fields | changes))

    return make
