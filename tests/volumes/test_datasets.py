"""Datasets in MSD and nnU-Net layout, their groups, and what is said when they are not in order."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.volumes.datasets import all_groups, case_groups, find_dataset, open_dataset, scan_name


def change(dataset: Path, **keys: Any) -> None:
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def nnunet(folder: Path, tiny: Path) -> Path:
    for part, source in (("Tr", "imagesTr"), ("Ts", "imagesTs")):
        (folder / source).mkdir(parents=True)
        for image in (tiny / source).iterdir():
            shutil.copy(image, folder / source / image.name.replace(".nii", "_0000.nii"))
        shutil.copytree(tiny / f"labels{part}", folder / f"labels{part}")
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ball": 1, "core": 2}, "numTraining": 6}
    (folder / "dataset.json").write_text(json.dumps(description | {"file_ending": ".nii.gz"}))
    return folder


def test_msd_layout(tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    assert (dataset.name, dataset.layout, dataset.modality, dataset.is_ct) == ("Tiny", "MSD", "CT", True)
    assert dataset.labels == {0: "background", 1: "ball", 2: "core"}
    assert [case.name for case in dataset.training] == [f"case_{index:03d}" for index in range(1, 7)]
    assert [case.name for case in dataset.test] == ["case_007", "case_008"]
    assert dataset.test[0].label == tiny_dataset / "labelsTs" / "case_007.nii.gz"


def test_nnunet_layout_gives_the_same_cases(tiny_dataset: Path, tmp_path: Path) -> None:
    msd, other = open_dataset(tiny_dataset), open_dataset(nnunet(tmp_path / "Dataset001_Tiny", tiny_dataset))
    assert (other.name, other.layout, other.modality) == ("Dataset001_Tiny", "nnU-Net", "CT")
    assert other.labels == msd.labels
    assert [case.name for case in other.training] == [case.name for case in msd.training]
    assert [case.name for case in other.test] == [case.name for case in msd.test]
    assert all(case.label is not None and case.label.is_file() for case in (*other.training, *other.test))


def test_labels_of_nnunet_may_be_called_by_numbers(tiny_dataset: Path, tmp_path: Path) -> None:
    root = nnunet(tmp_path / "Teeth", tiny_dataset)
    description = json.loads((root / "dataset.json").read_text())
    description["labels"] = {"background": 0, "12": 1, "11": 2}
    (root / "dataset.json").write_text(json.dumps(description))
    assert open_dataset(root).labels == {0: "background", 1: "12", 2: "11"}


def test_cases_may_have_names_and_test_labels_a_place(dataset: Path) -> None:
    """As `hpcseg init` lists the scans of a folder for each case, which are all called alike."""
    entries = []
    for case in ("a", "b-2"):
        for part in ("image", "label"):
            (dataset / case).mkdir(exist_ok=True)
            shutil.copy(dataset / f"{part}sTr" / "case_001.nii.gz", dataset / case / f"{part}.nii.gz")
        entries.append({"name": case, "image": f"{case}/image.nii.gz", "label": f"{case}/label.nii.gz"})
    change(dataset, training=entries[:1], test=[entries[1], "imagesTs/case_007.nii.gz"])
    found = open_dataset(dataset)
    assert [case.name for case in (*found.training, *found.test)] == ["a", "b-2", "case_007"]
    assert found.test[0].label == dataset / "b-2/label.nii.gz"
    change(dataset, training=[entries[0] | {"name": "../a"}])
    with pytest.raises(BadInput, match=r"name = '\.\./a' must be of letters"):
        open_dataset(dataset)


def test_test_cases_may_lack_labels(dataset: Path) -> None:
    (dataset / "labelsTs" / "case_008.nii.gz").unlink()
    assert open_dataset(dataset).test[1].label is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"modality": {"0": "CT", "1": "PET"}}, "lists 2 channels"),
        ({"modality": {}}, "modality is missing"),
        ({"training": ["./imagesTr/case_001.nii.gz"]}, "training must list"),
        ({"training": "all"}, "training must be a list"),
        ({"test": [3]}, "test must list"),
        ({"labels": {"liver": ["1", "2"]}}, "labels liver are regions of several values"),
        ({"labels": ["liver"]}, "labels must pair"),
        ({"test": ["./imagesTr/case_001.nii.gz"]}, "same case name 'case_001'"),
        ({"channel_names": {"0": "CT"}, "file_ending": ".png"}, "convert the dataset"),
    ],
)
def test_a_malformed_description_is_refused(dataset: Path, keys: dict[str, Any], message: str) -> None:
    change(dataset, **keys)
    with pytest.raises(BadInput, match=message) as caught:
        open_dataset(dataset)
    assert "\n" not in str(caught.value)


def test_windows_mark_before_utf_8_is_passed_over(dataset: Path) -> None:
    path = dataset / "dataset.json"
    before = open_dataset(dataset)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") and open_dataset(dataset) == before


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_description_that_is_no_object_is_refused(dataset: Path, content: str) -> None:
    (dataset / "dataset.json").write_text(content)
    with pytest.raises(BadInput, match=r"dataset\.json"):
        open_dataset(dataset)


@pytest.mark.parametrize(("part", "kind"), [("imagesTr", "image"), ("labelsTr", "label"), ("imagesTs", "image")])
def test_a_missing_file_is_named_with_the_remedy(dataset: Path, part: str, kind: str) -> None:
    victim = sorted((dataset / part).iterdir())[0]
    victim.unlink()
    with pytest.raises(BadInput, match=f"{kind} missing: {victim}; add the file or remove the case"):
        open_dataset(dataset)


def test_a_file_that_is_called_alike_is_named(dataset: Path) -> None:
    (dataset / "imagesTr").rename(dataset / "ImagesTr")
    (dataset / "ImagesTr" / "case_001.nii.gz").rename(there := dataset / "ImagesTr" / "Case_001.nii.gz")
    with pytest.raises(
        BadInput, match=rf"imagesTr/case_001\.nii\.gz \(there is {there}: upper and lower case differ\)"
    ):
        open_dataset(dataset)


def test_a_missing_label_in_nnunet_layout_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "D", tiny_dataset)
    (folder / "labelsTr" / "case_002.nii.gz").unlink()
    with pytest.raises(BadInput, match=r"label missing: .*case_002\.nii\.gz"):
        open_dataset(folder)


def test_find_dataset_below_data_or_data_itself(tiny_dataset: Path) -> None:
    assert find_dataset("Tiny", tiny_dataset.parent) == tiny_dataset
    assert find_dataset("Tiny", tiny_dataset) == tiny_dataset


@pytest.mark.parametrize("name", ["", "Other"])
def test_find_dataset_lists_what_is_there(tiny_dataset: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"there are: .*Tiny.*--set data\.dataset"):
        find_dataset(name, tiny_dataset.parent)
    with pytest.raises(BadInput, match=r"--set data\.dataset=Tiny"):
        find_dataset(name, tiny_dataset)
    with pytest.raises(BadInput, match=r"no folder there holds a dataset\.json"):
        find_dataset(name, tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        find_dataset(name, tmp_path / "nowhere")


def test_without_groups_every_case_is_for_itself(tiny_dataset: Path) -> None:
    groups = case_groups(open_dataset(tiny_dataset), "")
    assert len(set(groups.values())) == 6


def test_pairs_join_odd_numbers_with_the_next(tiny_dataset: Path) -> None:
    groups = case_groups(open_dataset(tiny_dataset), "pairs")
    assert groups["case_001"] == groups["case_002"] != groups["case_003"] == groups["case_004"]


def test_pairs_need_numbers(dataset: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (dataset / part / "case_001.nii.gz").rename(dataset / part / "odd.nii.gz")
    change(dataset, training=[{"image": "imagesTr/odd.nii.gz", "label": "labelsTr/odd.nii.gz"}])
    with pytest.raises(BadInput, match="'odd' has no trailing number"):
        case_groups(open_dataset(dataset), "pairs")


def test_groups_from_a_file(dataset: Path) -> None:
    path = dataset / "splits.json"
    path.write_text(json.dumps({"patient_groups": {"p": ["case_002", "case_005"]}}))
    groups = case_groups(open_dataset(dataset), "splits.json")
    assert set(groups) == {f"case_{index:03d}" for index in range(1, 7)}
    assert groups["case_002"] == groups["case_005"]
    assert len(set(groups.values())) == 5


def test_scans_without_labels_have_their_patients_too(dataset: Path) -> None:
    opened = open_dataset(dataset)
    one, other = (case.name for case in opened.test)
    (dataset / "splits.json").write_text(json.dumps({"patient_groups": {"p": ["case_002", one]}}))
    groups = all_groups(opened, "splits.json")
    assert groups[one] == groups["case_002"] and groups[other] == other
    unnumbered = opened.test[0].model_copy(update={"name": "no number"})
    assert all_groups(dataclasses.replace(opened, test=(unnumbered,)), "pairs")["no number"] == "no number"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "patient_groups"),
        ({"patient_groups": ["case_001"]}, "patient_groups"),
        ({"patient_groups": {"a": ["case_999"]}}, "'case_999', which is no case"),
        ({"patient_groups": {"a": ["case_001"], "b": ["case_001"]}}, "'case_001' twice"),
    ],
)
def test_a_bad_groups_file_is_refused(dataset: Path, content: dict[str, Any], message: str) -> None:
    (dataset / "splits.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        case_groups(open_dataset(dataset), "splits.json")
    with pytest.raises(BadInput, match="no such file"):
        case_groups(open_dataset(dataset), "none.json")


def test_real_datasets_open(shared_data: Path) -> None:
    liver = open_dataset(find_dataset("Task03_LiverCT", shared_data))
    assert (len(liver.training), len(liver.test), liver.is_ct) == (9, 7, True)
    groups = case_groups(liver, "splits.json")
    assert len(set(groups.values())) == 5
    hippocampus = open_dataset(find_dataset("Task04_Hippocampus", shared_data))
    assert (len(hippocampus.training), hippocampus.is_ct) == (200, False)
    assert case_groups(hippocampus, "pairs")["hippocampus_003"] == case_groups(hippocampus, "pairs")["hippocampus_004"]


def test_scan_name_drops_the_nifti_ending_only() -> None:
    assert scan_name(Path("a/b.c.nii.gz")) == "b.c"
    assert scan_name(Path("b.nii")) == "b"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": "x" * 300, "label": "y"}, "cannot be an image's path"),
        ({"image": "imagesTr/case_001.nii.gz", "label": "y" * 300}, "label missing"),
        ({"image": "..", "label": "y"}, "cannot be an image's path"),
        ({"image": "a\0b", "label": "y"}, "cannot be an image's path"),
    ],
)
def test_paths_that_no_file_has_are_one_line(dataset: Path, item: dict[str, str], message: str) -> None:
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training": [item]}))
    with pytest.raises(BadInput, match=message):
        open_dataset(dataset)


def test_groups_of_what_is_no_name_are_one_line(dataset: Path) -> None:
    (dataset / "groups.json").write_text('{"patient_groups": {"a": [["case_001"]]}}')
    with pytest.raises(BadInput, match="which is no case of the dataset"):
        case_groups(open_dataset(dataset), "groups.json")


def test_a_dataset_of_a_name_that_no_folder_has_is_one_line(dataset: Path) -> None:
    with pytest.raises(BadInput, match="no dataset 'xxx"):
        find_dataset("x" * 300, dataset.parent)
