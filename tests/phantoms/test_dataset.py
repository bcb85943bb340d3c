"""Phantoms: the layout on disk, determinism, anatomy and the axes of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.phantoms.dataset import FILE_AXES, draw_phantom, write_phantoms

SIZE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "Task99_Phantom"
    write_phantoms(folder, training=8, test=2, unlabelled=1, seed=3, size=SIZE)
    return folder


def test_the_dataset_has_the_decathlon_layout(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["modality"] == {"0": "CT"}
    assert description["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert (description["numTraining"], description["numTest"]) == (8, 3)
    for pair in description["training"]:
        assert (dataset / pair["image"]).is_file()
        assert (dataset / pair["label"]).is_file()
    assert all((dataset / image).is_file() for image in description["test"])
    assert sorted(p.name for p in (dataset / "labelsTs").iterdir()) == ["test_000.nii.gz", "test_001.nii.gz"]
    assert (dataset / "imagesTs" / "unlabelled_000.nii.gz").is_file()


def test_image_and_label_share_one_grid_and_their_types(dataset: Path) -> None:
    for path in sorted((dataset / "imagesTr").iterdir()):
        image, label = (
            nib.nifti1.load(path),
            nib.nifti1.load(dataset / "labelsTr" / path.name),
        )
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}


def test_files_have_several_orientations_and_some_are_oblique(dataset: Path) -> None:
    affines = [nib.nifti1.load(path).affine for path in sorted((dataset / "imagesTr").iterdir())]
    axes = {"".join(nib.aff2axcodes(affine)) for affine in affines}
    assert len(axes) >= 3
    assert axes <= set(FILE_AXES)
    oblique = [bool((np.sort(np.abs(a[:3, :3]), axis=None)[:6] > 1e-3).any()) for a in affines]
    assert any(oblique)
    assert not all(oblique)


def test_the_file_turned_to_ras_is_the_phantom_itself(dataset: Path) -> None:
    for number in range(8):
        phantom = draw_phantom(3, "train", number, SIZE)
        image = nib.as_closest_canonical(nib.nifti1.load(dataset / "imagesTr" / f"train_{number:03d}.nii.gz"))
        np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), phantom.volume_zyx)
        np.testing.assert_allclose(image.affine, phantom.affine, atol=1e-3)


def test_the_liver_is_on_the_patients_right_in_front_of_the_spine_and_below_the_lungs() -> None:
    for number in range(6):
        phantom = draw_phantom(0, "test", number, 48)
        z, y, x = (axis.mean() for axis in np.nonzero(phantom.label_zyx))
        spine = phantom.volume_zyx > 250
        lung = (phantom.volume_zyx > -950) & (phantom.volume_zyx < -600)
        lung[:, :10] = False  # the table
        assert x > phantom.volume_zyx.shape[2] / 2  # RAS+: x grows to the right
        assert y > np.nonzero(spine)[1].mean()
        assert z < np.nonzero(lung)[0].mean()


def test_the_liver_has_a_plausible_volume() -> None:
    for number in range(6):
        phantom = draw_phantom(1, "train", number, 48)
        voxel = abs(np.linalg.det(phantom.affine[:3, :3])) / 1000  # ml
        assert 700 < (phantom.label_zyx > 0).sum() * voxel < 2600


def test_some_cases_have_lesions_and_some_have_none() -> None:
    lesions = [bool((draw_phantom(0, "train", number, 48).label_zyx == 2).any()) for number in range(12)]
    assert any(lesions)
    assert not all(lesions)


def test_intensity_alone_does_not_find_the_liver() -> None:
    for number in range(4):
        phantom = draw_phantom(0, "train", number)
        liver = phantom.label_zyx == 1
        low, high = np.percentile(phantom.volume_zyx[liver], (5, 95))
        window = (phantom.volume_zyx >= low) & (phantom.volume_zyx <= high)
        assert 2 * (liver & window).sum() / (liver.sum() + window.sum()) < 0.75


def test_the_air_is_at_minus_1000_and_bone_is_bright() -> None:
    volume = draw_phantom(0, "train", 0).volume_zyx
    assert volume.min() == -1000
    assert (volume[:, -5:, :] == -1000).mean() > 0.95
    assert 250 < volume.max() < 1500


def test_a_case_depends_on_seed_set_and_number_only(dataset: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "again", training=2, test=1, seed=3, size=SIZE)
    for name in ("imagesTr/train_001", "labelsTr/train_001", "imagesTs/test_000"):
        one, other = (nib.nifti1.load(root / f"{name}.nii.gz") for root in (dataset, tmp_path / "again"))
        np.testing.assert_array_equal(one.dataobj, other.dataobj)
        np.testing.assert_array_equal(one.affine, other.affine)
    different = [draw_phantom(*case, SIZE).affine for case in ((3, "train", 0), (4, "train", 0), (3, "test", 0))]
    assert not np.array_equal(different[0], different[1])
    assert not np.array_equal(different[0], different[2])


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"full.*empty folder"):
        write_phantoms(tmp_path / "full", size=SIZE)
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "notes.txt"]


@pytest.mark.parametrize("arguments", [{"training": 0}, {"test": -1}, {"seed": -1}, {"size": 8}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        write_phantoms(tmp_path / "new", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "new", size=SIZE, progress=stop)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_case(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    write_phantoms(tmp_path / "new", training=1, test=1, unlabelled=1, size=SIZE, progress=lambda *a: seen.append(a))
    assert seen == [(1, 3, "train_000"), (2, 3, "test_000"), (3, 3, "unlabelled_000")]


def test_the_folder_that_one_is_in_is_not_replaced_and_a_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BadInput, match=r"is the folder that you are in; give a new one in it, such as Phantoms"):
        write_phantoms(Path(), training=1, test=0, unlabelled=0, seed=0, size=24)
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to("place")
    write_phantoms(tmp_path / "link", training=1, test=0, unlabelled=0, seed=0, size=24)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "place" / "dataset.json").is_file()
