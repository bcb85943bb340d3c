"""What is found in datasets: complete for good data, problems listed for bad, notes for what deserves a look."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection import dataset_findings
from hpcseg.inspection.dataset_findings import inspect_dataset, list_datasets
from hpcseg.screens.inspection import report_tables


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.nifti1.load(path)
    return np.asanyarray(image.dataobj), image.affine


def test_datasets_inside_a_folder_are_listed(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "my data" / "Broken").mkdir(parents=True)
    (tmp_path / "my data" / "Tiny").symlink_to(tiny_dataset)
    (tmp_path / "my data" / "Broken" / "dataset.json").write_text("[]")
    found = list_datasets(tmp_path / "my data")
    assert found["datasets"] == [
        {"folder": "Tiny", "layout": "MSD", "modality": "CT", "training": 6, "test": 2, "labels": "1 ball, 2 core"}
    ]
    (problem,) = found["problems"]
    assert "Broken/dataset.json: must hold an object" in problem
    assert report_tables(found)[-1] == f"every scan of one: hpcseg inspect '{tmp_path}/my data/Tiny'"


def test_a_good_dataset(tiny_dataset: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    found = inspect_dataset(tiny_dataset, lambda done, total, name: calls.append((done, total, name)))
    assert calls[0] == (1, 8, "case_001")
    assert calls[-1] == (8, 8, "case_008")
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["name"], found["modality"], found["layout"]) == ("dataset", "Tiny", "CT", "MSD")
    assert (found["problems"], found["warnings"], found["duplicates"], found["pictures"]) == ([], [], [], [])
    assert (len(found["training"]), len(found["test"])) == (6, 2)
    first = found["training"][0]
    label, _ = load(tiny_dataset / "labelsTr" / "case_001.nii.gz")
    assert (first["case"], first["shape_zyx"], first["spacing_zyx"]) == ("case_001", [24, 28, 26], [2.0, 2.0, 2.0])
    assert (first["orientation"], first["oblique_deg"], first["dtype"]) == ("RAS", 0, "int16")
    assert first["labels"] == {str(value): int((label == value).sum()) for value in range(3)}
    assert first["label_ml"]["2"] == pytest.approx((label == 2).sum() * 0.008)
    assert first["intensity_min"] == -1000
    assert first["remarks"] == []


def test_threads_do_not_change_the_report(tiny_dataset: Path) -> None:
    assert inspect_dataset(tiny_dataset, workers=4) == inspect_dataset(tiny_dataset)


def test_bad_cases_become_problems(dataset: Path, write_scan) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    (dataset / "imagesTr" / "case_001.nii.gz").write_bytes(b"broken")
    (dataset / "labelsTr" / "case_002.nii.gz").unlink()
    write_scan(dataset / "labelsTr" / "case_003.nii.gz", np.zeros((26, 28, 24), np.uint8), affine)
    write_scan(dataset / "labelsTr" / "case_004.nii.gz", np.full((26, 28, 24), 9, np.uint8), affine)
    found = inspect_dataset(dataset, workers=2)
    assert json.loads(json.dumps(found)) == found
    assert len(found["training"]) == 6
    first, second, third, fourth = found["problems"]
    assert "case_001.nii.gz: not a readable NIfTI scan" in first
    assert "case_002.nii.gz: no such scan" in second
    assert "case_003.nii.gz: empty foreground" in third
    assert "case_004.nii.gz: label values [9] are not in dataset.json" in fourth
    assert found["training"][0] == {"case": "case_001", "remarks": ["problem"]}
    assert found["training"][1]["labels"] is None
    assert [case["case"] for case in found["training"] if "problem" in case["remarks"]] == [
        f"case_00{n}" for n in range(1, 5)
    ]


def test_a_header_that_asks_for_too_much_memory_is_a_problem(dataset: Path) -> None:
    path = dataset / "imagesTr" / "case_001.nii"
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    content[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    path.write_bytes(content)
    description = (dataset / "dataset.json").read_text()
    (dataset / "dataset.json").write_text(description.replace("imagesTr/case_001.nii.gz", "imagesTr/case_001.nii"))
    (problem,) = inspect_dataset(dataset)["problems"]
    assert "case_001.nii" in problem


def test_copies_are_found_whatever_dtype_and_orientation_they_have(dataset: Path, write_scan) -> None:
    scans = {n: dataset / "imagesTr" / f"case_00{n}.nii.gz" for n in range(1, 7)}
    values, affine = load(scans[1])
    write_scan(scans[2], values.astype(np.float64), affine)
    turned = nib.as_closest_canonical(nib.nifti1.load(scans[1])).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    shutil.copy(scans[1], dataset / "imagesTs" / "case_007.nii.gz")
    nib.save(turned, dataset / "imagesTs" / "case_008.nii.gz")
    shutil.copy(dataset / "labelsTr" / "case_001.nii.gz", dataset / "labelsTs" / "case_007.nii.gz")
    (dataset / "labelsTs" / "case_008.nii.gz").unlink()
    values, affine = load(scans[3])
    write_scan(scans[4], np.ascontiguousarray(values[::-1]), affine)
    found = inspect_dataset(dataset)
    assert found["problems"] == []
    assert [(item["kind"], item["cases"]) for item in found["duplicates"]] == [
        ("identical", ["case_001", "case_002", "case_007", "case_008"]),
        ("rearranged", ["case_003", "case_004"]),
    ]
    leak, same, turned_note, mixed = found["warnings"]
    assert leak.startswith("leak: training and test share voxels: case_001 (training) = case_002 (training) = case_007")
    assert "identical voxels: case_001 + case_002" in same
    assert "with labels that differ: case_001" in same
    assert "another order: case_003 + case_004" in turned_note
    assert "orientations on disk are mixed" in mixed
    assert found["training"][0]["remarks"] == ["leak", "duplicate"]
    assert found["test"][1]["remarks"] == ["leak", "duplicate", "orientation"]


def test_outliers_are_notes_and_no_problems(dataset: Path, write_scan) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    write_scan(dataset / "imagesTr" / "case_002.nii.gz", np.full((26, 28, 24), 40, np.int16), affine)
    for part in ("images", "labels"):
        values, _ = load(dataset / f"{part}Tr" / "case_005.nii.gz")
        write_scan(dataset / f"{part}Tr" / "case_005.nii.gz", values, np.diag([9.0, 9.0, 9.0, 1.0]))
    found = inspect_dataset(dataset)
    assert found["problems"] == []
    assert any("constant image: case_002 (40)" in line for line in found["warnings"])
    assert any("spacing far" in line and "case_005 (9 × 9 × 9)" in line for line in found["warnings"])
    assert {"spacing", "extent"} <= set(found["training"][4]["remarks"])


def test_no_dataset_is_a_problem(tmp_path: Path) -> None:
    (problem,) = inspect_dataset(tmp_path)["problems"]
    assert "dataset.json: no such file" in problem


def test_an_empty_dataset_is_a_problem(dataset: Path) -> None:
    (dataset / "dataset.json").write_text('{"modality": {"0": "CT"}, "training": [], "test": []}')
    (problem,) = inspect_dataset(dataset)["problems"]
    assert "no case found: dataset.json lists none" in problem


def test_pictures_of_a_dataset(dataset: Path, tmp_path: Path) -> None:
    (dataset / "imagesTr" / "case_001.nii.gz").write_bytes(b"broken")
    folder = tmp_path / "png"
    found = inspect_dataset(dataset, workers=2, pictures=folder)
    assert found["pictures"] == [str(folder / f"case_00{n}.png") for n in range(2, 9)] + [str(folder / "overview.png")]
    with pytest.raises(BadInput, match=r"case_002\.png: exists"):
        inspect_dataset(dataset, pictures=folder)


def test_real_ct_and_mr(shared_data: Path) -> None:
    found = inspect_dataset(shared_data / "Task04_Hippocampus", workers=2)
    assert found["problems"] == []
    assert len(found["warnings"]) == 1  # intensities up to 1.7 million among others are usual for MR
    assert len(found["duplicates"]) == 51


def nnunet_with_ignore(root: Path, write_scan) -> Path:
    """Four cases in nnU-Net's layout, a corner of each label reserved."""
    for case in range(4):
        label = np.zeros((24, 24, 24), np.uint8)
        label[8:16, 8:16, 8:16] = 1
        image = np.random.default_rng(case).normal(0, 1, label.shape).astype(np.float32) + 4 * label
        label[18:, 18:, 18:] = 2
        write_scan(root / "imagesTr" / f"c{case}_0000.nii.gz", image)
        write_scan(root / "labelsTr" / f"c{case}.nii.gz", label)
    labels = {"background": 0, "f": 1, "ignore": 2}
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def test_the_reserved_label_is_named_and_counts_as_none(tmp_path: Path, write_scan) -> None:
    found = inspect_dataset(nnunet_with_ignore(tmp_path / "D", write_scan))
    assert not found["problems"]
    (note,) = [line for line in found["warnings"] if "ignore" in line]
    assert "label 2 (ignore) is nnU-Net's reserved one: its voxels (0.864 ml in 4 cases) are left out of loss" in note
    assert not any(case["label_at_edge"] for case in found["training"])
    assert not any("label 2" in line for line in found["warnings"] if line != note)


def test_a_scan_directly_below_the_root_is_of_no_dataset() -> None:
    dataset, case = dataset_findings._of_dataset(Path("/scan.nii.gz"))
    assert (dataset.training, case.name, case.label) == ((), "scan", None)
