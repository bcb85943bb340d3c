"""Reports on datasets and stores: complete for good data, problems listed for bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from hpcseg.volumes.inspection import inspect_dataset, inspect_store
from hpcseg.volumes.packing import pack


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the tiny dataset that may be broken."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "Tiny"))


def test_a_good_dataset(tiny_dataset: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    report = inspect_dataset(tiny_dataset, (1, 2), lambda done, total, name: calls.append((done, total, name)))
    assert calls[0] == (1, 8, "case_001")
    assert calls[-1] == (8, 8, "case_008")
    assert json.loads(json.dumps(report)) == report
    assert (report["kind"], report["name"], report["modality"], report["layout"]) == ("dataset", "Tiny", "CT", "MSD")
    assert report["problems"] == []
    assert (len(report["training"]), len(report["test"])) == (6, 2)
    first = report["training"][0]
    label = np.asanyarray(nib.load(tiny_dataset / "labelsTr" / "case_001.nii.gz").dataobj)
    assert first["case"] == "case_001"
    assert first["shape_zyx"] == [24, 28, 26]
    assert first["spacing_zyx"] == [2.0, 2.0, 2.0]
    assert first["labels"] == {str(value): int((label == value).sum()) for value in range(3)}
    assert first["intensity_min"] == -1000


def test_bad_cases_become_problems(dataset: Path, write_scan) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    (dataset / "imagesTr" / "case_001.nii.gz").write_bytes(b"broken")
    (dataset / "labelsTr" / "case_002.nii.gz").unlink()
    write_scan(dataset / "labelsTr" / "case_003.nii.gz", np.zeros((26, 28, 24), np.uint8), affine)
    write_scan(dataset / "labelsTr" / "case_004.nii.gz", np.full((26, 28, 24), 9, np.uint8), affine)
    report = inspect_dataset(dataset, ((1,), (2,)))
    assert json.loads(json.dumps(report)) == report
    assert len(report["training"]) == 6
    first, second, third, fourth, fifth = report["problems"]
    assert "case_001.nii.gz: not a readable NIfTI scan" in first
    assert "case_002.nii.gz: no such scan" in second
    assert "case_003.nii.gz: empty foreground" in third
    assert "case_004.nii.gz: label values [9] are not in dataset.json" in fourth
    assert "case_004.nii.gz: empty foreground" in fifth


def test_no_dataset_is_a_problem(tmp_path: Path) -> None:
    (problem,) = inspect_dataset(tmp_path)["problems"]
    assert "dataset.json: no such file" in problem


def test_an_empty_dataset_is_a_problem(dataset: Path) -> None:
    (dataset / "dataset.json").write_text('{"modality": {"0": "CT"}, "training": [], "test": []}')
    (problem,) = inspect_dataset(dataset)["problems"]
    assert "lists no cases" in problem


def test_a_store(tiny_dataset: Path, make_spec, tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    pack(make_spec(tiny_dataset), path)
    report = inspect_store(path)
    assert json.loads(json.dumps(report)) == report
    assert (report["kind"], report["dataset"], report["problems"]) == ("store", "Tiny", [])
    assert report["spacing_zyx"] == [2.0, 2.0, 2.0]
    assert [case["case"] for case in report["cases"]] == [f"case_{index:03d}" for index in range(1, 9)]
    assert report["cases"][0]["labelled"]
    assert report["cases"][0]["foreground_voxels"] > 100
    with h5py.File(path, "r+") as file:
        file["cases/case_002/image_1"][0, 0, 0] += 1
        del file["cases/case_003/image_0"]
    problems = inspect_store(path)["problems"]
    assert ["case_002" in line for line in problems] == [True, False, False]
    assert sum("case_003" in line for line in problems) == 2


def test_no_store_is_a_problem(tmp_path: Path) -> None:
    (problem,) = inspect_store(tmp_path / "none.h5")["problems"]
    assert "no such store" in problem
