"""Layouts that nearly fit: what is the matter, and what to do; what is left out is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection.dataset_findings import inspect_dataset
from hpcseg.volumes.datasets import open_dataset


@pytest.fixture
def make(tmp_path: Path, write_scan) -> Any:
    """Four labels and `images` scans, whose names end with `suffix`; keywords change `dataset.json`."""

    def write(suffix: str = "_0000", images: int = 4, **keys: Any) -> Path:
        values = np.zeros((9, 9, 9), np.uint8)
        values[3:6, 3:6, 3:6] = 1
        for case in range(4):
            write_scan(tmp_path / f"D/labelsTr/c{case}.nii.gz", values)
            if case < images:
                write_scan(tmp_path / f"D/imagesTr/c{case}{suffix}.nii.gz", values * np.uint8(4 + case))
        content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "f": 1}, "numTraining": 4}
        changed = {
            key: value for key, value in (content | {"file_ending": ".nii.gz"} | keys).items() if value is not None
        }
        (tmp_path / "D/dataset.json").write_text(json.dumps(changed))
        return tmp_path / "D"

    return write


def only_problem(root: Path) -> str:
    with pytest.raises(BadInput) as caught:
        open_dataset(root)
    (problem,) = inspect_dataset(root)["problems"]
    assert problem == str(caught.value)
    return problem


def test_images_without_a_channel_are_named_with_what_they_should_be_called(make) -> None:
    said = only_problem(make(""))
    assert "images are CASE_0000.nii.gz, one file per channel, but imagesTr holds c0.nii.gz, c1.nii.gz" in said
    assert "c2.nii.gz and 1 more; rename them (c0.nii.gz -> c0_0000.nii.gz)" in said


def test_the_first_version_is_read_where_it_lists_its_cases(make) -> None:
    old = {"channel_names": None, "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "f"}}
    assert 'write "channel_names" in place of "modality"' in only_problem(make(**old))
    listed = [{"image": f"./imagesTr/c{case}.nii.gz", "label": f"./labelsTr/c{case}.nii.gz"} for case in range(4)]
    root = make(**old, training=listed)
    cases = open_dataset(root).training
    assert [case.name for case in cases] == ["c0", "c1", "c2", "c3"]
    assert cases[0].image == root / "imagesTr/c0_0000.nii.gz" and cases[0].label == root / "labelsTr/c0.nii.gz"


def test_another_ending_and_an_empty_folder_are_named(make, tmp_path: Path) -> None:
    assert "says file_ending '.nii', but imagesTr holds c0_0000.nii.gz" in only_problem(make(file_ending=".nii"))
    for path in (tmp_path / "D/imagesTr").iterdir():
        path.unlink()
    assert "imagesTr has no NIfTI file; in nnU-Net's layout images are" in only_problem(make(images=0))


def test_scans_that_are_said_to_be_there_are_missed(make) -> None:
    root = make(images=3)
    notes = open_dataset(root).notes
    assert notes == tuple(inspect_dataset(root)["warnings"][:2])
    assert "numTraining 4, but 3 are found in imagesTr" in notes[0]
    assert "labels without an image _0000 in imagesTr, left out: c3" in notes[1]


def test_a_channel_that_is_not_declared_is_named(make, write_scan) -> None:
    root = make()
    write_scan(root / "imagesTr/c0_0001.nii.gz", np.zeros((9, 9, 9), np.uint8))
    write_scan(root / "imagesTr/odd.nii.gz", np.zeros((9, 9, 9), np.uint8))
    channel, odd = open_dataset(root).notes
    assert "imagesTr holds channel 0001, which channel_names does not list; only channel 0000 is used" in channel
    assert "imagesTr holds images without _0000 in their names, left out: odd.nii.gz" in odd


def test_a_sound_dataset_has_no_notes(make, tiny_dataset: Path) -> None:
    assert open_dataset(make()).notes == open_dataset(tiny_dataset).notes == ()


def test_a_list_that_is_shorter_than_it_says_is_noted(tiny_dataset: Path, dataset: Path) -> None:
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"training": content["training"][1:], "numTraining": 6}))
    assert open_dataset(dataset).notes == (f"{dataset}: dataset.json says numTraining 6, but 5 are listed in it",)
