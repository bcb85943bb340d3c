"""Folders that nobody prepared: what is taken for what, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg.errors import BadInput
from hpcseg.inspection.layout_guess import Guess, guess_cases
from hpcseg.inspection.pair_lists import read_pairs


def guess(names: str, marks: str = "") -> Guess:
    """Of names without their ending; those that end in `marks` look like labels inside."""
    paths = [f"{name}.nii.gz" for name in names.split()]
    return guess_cases(paths, lambda path: bool(marks) and path.endswith(f"{marks}.nii.gz"))


def pairs(found: Guess) -> dict[str, str]:
    """Name of each case and what its label is called; unlabelled: "-", a test case has "*" before it."""
    star = {"test": "*", "training": "", "unlabelled": ""}
    return {case.name: star[case.part] + (case.label or "-").removesuffix(".nii.gz") for case in found.cases}


@pytest.mark.parametrize(
    ("names", "marks", "layout", "cases"),
    [
        (
            "images/1 images/2 labels/1 images/3 labels/2",
            "",
            "folders of",
            {"1": "labels/1", "2": "labels/2", "3": "-"},
        ),
        (
            "img/img01 img/img02 mask/label01 mask/label02",
            "",
            "own",
            {"img01": "mask/label01", "img02": "mask/label02"},
        ),
        ("volume-0 segmentation-0 volume-1", "", "pairs", {"volume-0": "segmentation-0", "volume-1": "-"}),
        (
            "sub-01/anat/sub-01_T1w sub-02/anat/sub-02_T1w sub-03/anat/sub-03_T1w sub-02/anat/sub-02_T2w "
            "derivatives/labels/sub-01/anat/sub-01_dseg derivatives/labels/sub-02/anat/sub-02_T1w_seg "
            "derivatives/prep/sub-01/sub-01_desc-preproc_T1w",
            "",
            "BIDS",
            {
                "sub-01": "derivatives/labels/sub-01/anat/sub-01_dseg",
                "sub-02": "derivatives/labels/sub-02/anat/sub-02_T1w_seg",
                "sub-03": "-",
            },
        ),
        (
            "imagesTr/p_1_0000 imagesTr/p_1_0001 imagesTr/p_2_0000 labelsTr/p_1 labelsTr/p_2 imagesTs/p_3_0000 "
            "imagesTs/p_3_0001",
            "",
            "nnU-Net",
            {"p_1": "labelsTr/p_1", "p_2": "labelsTr/p_2", "p_3": "-"},
        ),
        (
            "imagesTr/c_0000 imagesTr/c_0001 labelsTr/c_0000 labelsTr/c_0001",
            "",
            "",
            {"c_0000": "labelsTr/c_0000", "c_0001": "labelsTr/c_0001"},
        ),
        (
            "imagesTr/a labelsTr/a imagesTs/b labelsTs/b imagesTs/c",
            "",
            "MSD",
            {"a": "labelsTr/a", "b": "*labelsTs/b", "c": "-"},
        ),
        (
            "a1 a1_seg b2 b2-label x/c x/c.label d_img d_gt e old/f label_7 7",
            "",
            "pairs",
            {"a1": "a1_seg", "b2": "b2-label", "c": "x/c.label", "d_img": "d_gt", "e": "-", "f": "-", "7": "label_7"},
        ),
        (
            "c1/image c1/label c2/image c2/label c3/image",
            "",
            "a folder",
            {"c1": "c1/label", "c2": "c2/label", "c3": "-"},
        ),
        ("c1/scan c1/seg/scan c2/scan c2/seg/scan", "", "", {"c1": "c1/seg/scan", "c2": "c2/seg/scan"}),
        ("c1/a c1/b c2/a c2/b", "b", "a folder", {"c1_a": "c1/b", "c2_a": "c2/b"}),
        ("p1_x p1_y p2_x p2_y", "y", "pairs", {"p1_x": "p1_y", "p2_x": "p2_y"}),
        ("p1 p1_liver_seg p2 p2_liver_seg", "", "", {"p1": "p1_liver_seg", "p2": "p2_liver_seg"}),
        ("p/p1_t1 p/p1_t2 p/p1_t1_seg", "", "", {"p1": "p/p1_t1_seg"}),
        ("test/images/1 test/labels/1", "", "", {"1": "test/labels/1"}),
    ],
)
def test_layouts(names: str, marks: str, layout: str, cases: dict[str, str]) -> None:
    found = guess(names, marks)
    assert pairs(found) == cases and layout in found.layout
    assert all(case.reason for case in found.cases)


def test_content_is_said_to_have_told() -> None:
    assert {case.reason for case in guess("c1/a c1/b c2/a c2/b", "b").cases} == {
        "few whole numbers in it; names alike but for words that all have"
    }


def test_what_is_left_out_is_said() -> None:
    notes = guess("p1_T1w p1_T1w_seg p2_T2w z_seg derivatives/prep/p1").notes
    assert [re.sub(r"\.nii\.gz", "", note) for note in notes] == [
        "labels without an image, left out: z_seg",
        "other channels of a scan, or another modality, left out: p2_T2w",
        "derived images, left out: derivatives/prep/p1",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("p1 p1_seg p1_mask", r"p1_seg\.nii\.gz fits p1\.nii\.gz, p1_mask\.nii\.gz alike"),
        ("p1 p1_liver_seg p1_spleen_seg p2", "p1_liver_seg.* fits .*p1_spleen_seg"),
        ("b1/b1_t1 b1/b1_t2 b1/b1_seg", "b1_seg.* fits .*b1_t1.*b1_t2"),
        ("s1/ct s1/segs/liver s1/segs/spleen", "liver.* fits .*spleen"),
        ("p1 p2", "no label among 2 scans"),
        ("labels/1 labels/2", "no image among"),
        ("p1 q_seg", "no label .* fits an image"),
    ],
)
def test_what_is_open_is_refused_with_what_to_do(names: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        guess(names)
    assert "pairs.csv" in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=10)
@given(
    st.lists(st.integers(0, 999).map("case{}".format), min_size=2, max_size=6, unique=True),
    st.sampled_from(["{}_seg", "seg_{}", "{}-label", "masks/{}", "{}.mask", "{0}/{0}_gt"]),
    st.integers(0, 5),
)
def test_every_way_to_mark_labels_pairs_each_image_with_its_own(names: list[str], mark: str, unlabelled: int) -> None:
    labelled = names[min(unlabelled, len(names) - 1) :]
    paths = [f"{name}.nii" for name in names] + [f"{mark.format(name)}.nii" for name in labelled]
    found = guess_cases(sorted(paths), lambda _: False)
    assert {case.image: case.label for case in found.cases} == {
        f"{name}.nii": f"{mark.format(name)}.nii" if name in labelled else None for name in names
    }


def test_a_list_of_pairs_counts() -> None:
    there = ["x/1.nii", "y/9.nii", "z.nii", "more.nii"]
    listed = read_pairs("case,Scan,mask\n1,./x/1.nii,y/9.nii\n2,z.nii,\n", there)
    assert listed == {"x/1.nii": "y/9.nii", "z.nii": None}
    found = guess_cases(there, lambda _: False, listed)
    assert pairs(found) == {"1": "y/9.nii", "z": "-"} and found.notes == ("not in the list, left out: more.nii",)
    assert read_pairs("x/1.nii,y/9.nii\n", there) == {"x/1.nii": "y/9.nii"}
    for mark in ";\t":
        assert read_pairs(f"image{mark}label\nx/1.nii{mark}y/9.nii\n", there) == {"x/1.nii": "y/9.nii"}
    assert read_pairs("age,sex\n61,f\n", there) is read_pairs("", there) is None


def test_a_folder_of_each_patient_is_told_from_folders_of_many() -> None:
    visits = guess("p1/a p1/a_seg p1/b p1/b_seg p2/a p2/a_seg p3/b p3/b_seg p3/c")
    assert sorted(visits.in_one_folder()) == [["p1_a", "p1_b"], ["p2_a"], ["p3_b", "p3_c"]]
    assert guess("s1/images/a s1/labels/a s2/images/a s2/labels/a s3/images/b s3/labels/b").in_one_folder() == []
    assert guess("p1/a p1/a_seg p1/b p1/b_seg p2/a p2/a_seg").in_one_folder() == []  # as likely two sites


def test_two_files_that_would_be_one_case_are_named() -> None:
    scans = ["a.nii.gz", "a_seg.nii.gz", "b.nii", "b.nii.gz"]
    with pytest.raises(BadInput, match=r"b\.nii and b\.nii\.gz would be cases of one name; rename one or take it out"):
        guess_cases(scans, lambda _: False)
