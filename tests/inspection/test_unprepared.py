"""Folders without dataset.json: what is walked through, the description, and who is one patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection.dataset_findings import inspect_dataset
from hpcseg.inspection.unprepared import describe, guess_folder, patient_groups, undescribed_dataset


def alike(*sets: str, score: float | None = 0.95) -> list[dict[str, Any]]:
    return [{"kind": "one patient", "cases": names.split(), "score": score} for names in sets]


def test_sets_of_one_patient_are_joined() -> None:
    assert patient_groups([*"abcdef"], alike("a b", "b c", "e x")) == {"1": ["a", "b", "c"]}
    names = ["sub-1_ses-1", "sub-1_ses-2", "sub-2", *"abc"]
    assert patient_groups(names, alike("sub-2 sub-1_ses-2")) == {"1": ["sub-1_ses-1", "sub-1_ses-2", "sub-2"]}


def test_names_and_folders_tell_patients_unless_they_leave_hardly_one() -> None:
    times = [f"patient{n}_frame{frame}" for n in (1, 2, 3) for frame in ("01", "12")]
    assert patient_groups(times, []) == {str(n): times[2 * n - 2 : 2 * n] for n in (1, 2, 3)}
    assert patient_groups([f"heart_frame{n:02d}" for n in range(9)], []) == {}
    assert patient_groups([*"abcd"], [], [["a", "b"], ["c"], ["d"]]) == {"1": ["a", "b"]}


def test_scans_that_are_all_alike_are_not_one_patient() -> None:
    assert patient_groups([*"abcdef"], alike("a b c d e f")) == {}
    assert patient_groups([*"abcdef"], alike("a b c d e f") + alike("a f", score=None)) == {"1": ["a", "f"]}


def test_hidden_files_are_passed_over_and_links_followed_once(tmp_path: Path, write_scan) -> None:
    for name in ("1", "1_seg", ".hidden", ".git/2"):
        write_scan(tmp_path / f"d/{name}.nii.gz", np.zeros((4, 4, 4), np.uint8))
    write_scan(tmp_path / "elsewhere/3.nii", np.zeros((4, 4, 4), np.uint8))
    (tmp_path / "d/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    assert [(case.name, case.image) for case in guess_folder(tmp_path / "d").cases] == [
        ("1", "1.nii.gz"),
        ("3", "link/3.nii"),
    ]


def test_content_tells_labels_where_names_do_not(tmp_path: Path, write_scan) -> None:
    rng = np.random.default_rng(0)
    for case in "ab":
        write_scan(tmp_path / f"{case}/x.nii.gz", rng.normal(0, 100, (9, 9, 9)).astype(np.int16))
        write_scan(tmp_path / f"{case}/y.nii.gz", rng.integers(0, 3, (9, 9, 9)).astype(np.uint8))
    found = guess_folder(tmp_path).cases
    assert [case.label for case in found] == ["a/y.nii.gz", "b/y.nii.gz"]
    assert "few whole numbers" in found[0].reason


def test_a_lesion_of_few_voxels_is_a_label_all_the_same(
    tmp_path: Path, write_scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcseg.inspection.unprepared._SAMPLE", 16)
    rng = np.random.default_rng(0)
    for case in "ab":
        write_scan(tmp_path / f"{case}.nii.gz", rng.normal(0, 100, (20, 20, 20)).astype(np.int16))
        lesion = np.zeros((20, 20, 20), np.uint8)
        lesion[10, 10, 10:12] = 1
        write_scan(tmp_path / f"{case}_tumour.nii.gz", lesion)
    assert [case.label for case in guess_folder(tmp_path).cases] == ["a_tumour.nii.gz", "b_tumour.nii.gz"]


def test_two_lists_and_datasets_below_are_refused(tmp_path: Path, write_scan) -> None:
    write_scan(tmp_path / "1.nii", np.zeros((4, 4, 4), np.uint8))
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("image,label\n1.nii,\n")
    with pytest.raises(BadInput, match=r"a\.csv, b\.csv all list pairs"):
        guess_folder(tmp_path)
    (tmp_path / "T").mkdir()
    (tmp_path / "T/dataset.json").write_text("{}")
    with pytest.raises(BadInput, match="holds the datasets T; give one of them"):
        guess_folder(tmp_path)


def test_a_description_leaves_out_what_cannot_be_used(tmp_path: Path, write_scan) -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[3:6, 3:6, 3:6] = 4
    for name, label in (("a", mask), ("b", mask * 0), ("c", mask[:8]), ("d", mask)):
        image = np.random.default_rng(ord(name)).normal(0, 9, (9, 9, 9)).astype(np.float32)
        write_scan(tmp_path / f"{name}.nii", image)
        write_scan(tmp_path / f"{name}_seg.nii", label)
    guess = guess_folder(tmp_path)
    dataset = undescribed_dataset(tmp_path, guess)
    made, notes = describe(guess, dataset, inspect_dataset(dataset))
    assert made["training"][0] == {"name": "a", "image": "a.nii", "label": "a_seg.nii"} and made["test"] == []
    assert [entry["name"] for entry in made["training"]] == ["a", "d"]
    assert made["labels"] == {"0": "background", "4": "label 4"} and made["modality"] == {"0": "MRI"}
    assert len(notes) == 2 and "c_seg.nii" in notes[0] and notes[1] == "left out, no label in them: b"


def test_a_patients_scan_without_a_label_is_in_the_patients_group(tmp_path: Path, write_scan) -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[3:6, 3:6, 3:6] = 1
    for name in ("p1_visit1", "p1_visit2", "p2_visit1", "p3_visit1"):
        image = np.random.default_rng(len(name)).normal(0, 9, (9, 9, 9)).astype(np.float32)
        write_scan(tmp_path / f"{name}.nii", image)
        if name != "p1_visit2":
            write_scan(tmp_path / f"{name}_seg.nii", mask)
    guess = guess_folder(tmp_path)
    dataset = undescribed_dataset(tmp_path, guess)
    made, _ = describe(guess, dataset, inspect_dataset(dataset) | {"duplicates": []})
    assert [entry["name"] for entry in made["test"]] == ["p1_visit2"]
    assert made["patient_groups"] == {"1": ["p1_visit1", "p1_visit2"]}
