"""Validation scans come from the store that they were packed into, where that holds the same; else from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcseg.config import RunConfig
from hpcseg.inference import evaluate
from hpcseg.inference.segment import ReadScan, Segmenter
from hpcseg.spec import PackSpec, SourceRef, TrainSpec
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import Store
from tests.inference.untrained import CPU, SPACING, model


@pytest.fixture(scope="module")
def packed(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSpec]:
    """A store of two cases, and a run that is validated on them."""
    cases = open_dataset(tiny_dataset).training[:2]
    recipe: dict[str, Any] = {"spacing_zyx": SPACING, "classes": ((1, 2),), "padding": -1000.0}
    recipe["pyramid_clip"] = (-200.0, 400.0)
    path = tmp_path_factory.mktemp("store") / "store.h5"
    pack(PackSpec(id="tiny", dataset="Tiny", cases=cases, **recipe), path)
    source = SourceRef(store=Path("store.h5"), cases=tuple(case.name for case in cases))
    spec = TrainSpec(id="run", config=RunConfig(), labelled=source, validation=source, validation_scans=cases, **recipe)
    return path, spec


def read(packed: tuple[Path, TrainSpec], group: str = "validation", **changes: Any) -> tuple[ReadScan, bool]:
    """What is read of a scan, and whether it came from the store."""
    came: list[bool] = []

    class Watched(Segmenter):
        def read(self, image: Path) -> ReadScan:
            came.append(False)
            return super().read(image)

    path, spec = packed
    spec = spec.model_copy(update=changes)
    with Store(path, verify=True) as store:
        scan = evaluate._read(Watched(model(), device=CPU), spec, store, (group, spec.validation_scans[1]))
    return scan, not came


def test_the_store_and_the_file_give_the_same(packed: tuple[Path, TrainSpec]) -> None:
    (stored, from_store), (own, from_file) = read(packed), read(packed, "test")
    assert from_store and not from_file
    for field in ("paddings", "coding", "crop"):
        assert getattr(stored.volume, field) == getattr(own.volume, field)
    ours, theirs = ([*scan.volume.levels_zyx, *scan.volume.histogram] for scan in (stored, own))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    np.testing.assert_array_equal(stored.grid.affine, own.grid.affine)
    assert isinstance(stored.volume, ScanVolume)


@pytest.mark.parametrize(
    "changes",
    [{"spacing_zyx": (2.0, 2.0, 3.0)}, {"padding": -900.0}, {"pyramid_clip": None}, {"pyramid_clip": (-9.0, 9.0)}],
)
def test_a_store_that_was_packed_otherwise_is_not_used(packed: tuple[Path, TrainSpec], changes: dict[str, Any]) -> None:
    assert not read(packed, **changes)[1]


def test_a_scan_that_is_another_than_the_packed_one_is_read(packed: tuple[Path, TrainSpec], tmp_path: Path) -> None:
    first, second = packed[1].validation_scans
    other = second.model_copy(update={"image": first.image, "label": first.label, "mark": ""})
    scan, from_store = read(packed, validation_scans=(first, other))
    assert not from_store and scan.image == first.image


def test_without_a_store_scans_are_read(packed: tuple[Path, TrainSpec], tmp_path: Path) -> None:
    (tmp_path / "train" / "run").mkdir(parents=True)
    with evaluate._validation_store(tmp_path / "train" / "run", packed[1]) as store:
        assert store is None
