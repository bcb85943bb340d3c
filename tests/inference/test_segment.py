"""Masks come back on the scan's own grid, however its file is turned; models are averaged; memory is bounded."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hpcseg.errors import BadInput
from hpcseg.inference.masks import segment_files
from hpcseg.inference.outputs import Wanted
from hpcseg.inference.segment import Segmenter
from hpcseg.volumes import scratch
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.scans import WHOLE
from tests.benchmarks.timing import PeakMemory, in_fresh_process
from tests.inference.test_predict import probabilities
from tests.inference.untrained import CPU, FNET, model, save
from tests.scans import restore

TURNS = [
    (axes, signs)
    for index, axes in enumerate(itertools.permutations(range(3)))
    for signs in list(itertools.product((1, -1), repeat=3))[index % 2 :: 3]
]


@pytest.fixture(scope="module")
def turned_scans(tiny_dataset: Path) -> tuple[Segmenter, nib.Nifti1Image, np.ndarray]:
    """A segmenter, a scan and its mask as it lies in the file; about half of the voxels are in the mask."""
    image = tiny_dataset / "imagesTs" / "case_007.nii.gz"
    trained = model()
    middle = float(np.median(probabilities(trained, image)))
    shift = np.log(middle / (1 - middle))
    trained.weights["classifier.bias"][1] -= shift
    segmenter = Segmenter(trained, device=CPU)
    found = segmenter.segment(image)
    mask = found.grid.to_file(found.mask_zyx)
    assert 0.3 < mask.mean() < 0.7
    return segmenter, nib.nifti1.load(image), mask


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_flipped_permuted_and_oblique_files_give_the_same_mask(
    turned_scans, tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...], degrees: float
) -> None:
    segmenter, scan, mask = turned_scans
    flips = tuple(slice(None, None, sign) for sign in signs)
    voxels = np.asanyarray(scan.dataobj).transpose(axes)[flips]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[c, -s, 0], [s * c, c * c, -s], [s * s, s * c, c]])  # about z, then about x
    affine = np.eye(4)
    affine[:3, :3] = rotation @ scan.affine[:3, :3][:, axes] * np.array(signs)
    affine[:3, 3] = (7, -300, 41)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "turned.nii.gz")
    found = segmenter.segment(tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(found.grid.to_file(found.mask_zyx), mask.transpose(axes)[flips])


def test_mask_and_maps_have_the_scans_header(image: Path, tmp_path: Path) -> None:
    scan = nib.nifti1.load(image)
    scan.set_sform(scan.affine, code=4)
    scan.set_qform(scan.affine, code=1)
    scan.header.set_xyzt_units("mm", "sec")
    scan.header["descrip"] = b"from the scanner"
    nib.save(scan, tmp_path / "scan.nii.gz")
    files = segment_files(
        [save(model(), tmp_path)],
        [tmp_path / "scan.nii.gz"],
        tmp_path / "masks",
        wanted=Wanted(probabilities=True),
    )
    for path, kind in zip(files, (np.uint8, np.uint16), strict=True):
        written = nib.nifti1.load(path)
        np.testing.assert_array_equal(written.affine, scan.affine)
        assert written.get_data_dtype() == kind
        assert written.header["descrip"].item() == b"from the scanner"
        assert written.header.get_xyzt_units() == ("mm", "sec")
        assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (4, 1)


def test_several_classes_take_the_most_probable_one(image: Path) -> None:
    found = Segmenter(model(((1,), (2,))), device=CPU).segment(image, probabilities=True)
    assert found.share_CZYX is not None
    share = found.share_CZYX.astype(float) / WHOLE
    full = np.concatenate([1 - share.sum(axis=0, keepdims=True), share])
    clear = np.diff(np.sort(full, axis=0)[-2:], axis=0)[0] > 1e-4
    np.testing.assert_array_equal(found.mask_zyx[clear], full.argmax(axis=0)[clear])
    assert clear.mean() > 0.9
    assert len(np.unique(found.mask_zyx)) > 1


def test_models_are_averaged_on_the_scans_grid_each_from_its_own(image: Path) -> None:
    fine = model(network={**FNET, "levels": 2}, spacing=1.5, patch=12, seed=1)
    models = [model(), fine, model(seed=5)]
    calls: list[tuple[int, int]] = []
    found = Segmenter(*models, device=CPU).segment(image, lambda *done: calls.append(done), probabilities=True)
    single = [Segmenter(one, device=CPU).segment(image, probabilities=True).share_CZYX for one in models]
    expected = np.mean([np.asarray(share, float) for share in single], axis=0)
    assert found.share_CZYX is not None
    assert np.abs(found.share_CZYX - expected).max() <= 1  # of 65535
    sure = np.abs(expected[0] / WHOLE - 0.5) > 1e-4
    np.testing.assert_array_equal(found.mask_zyx[sure], expected[0][sure] > WHOLE / 2)
    assert calls[-1][0] == calls[-1][1]


def test_the_average_of_one_model_with_itself_is_that_model(image: Path) -> None:
    one = Segmenter(model(), device=CPU).segment(image)
    twice = Segmenter(model(), model(), device=CPU).segment(image)
    np.testing.assert_array_equal(one.mask_zyx, twice.mask_zyx)


def test_models_of_other_classes_are_refused() -> None:
    with pytest.raises(BadInput, match=r"seed 4: its classes \[\[1\]\] are not \[\[1, 2\]\]"):
        Segmenter(model(), model(((1,),), seed=4))


def test_largest_keeps_one_component(image: Path) -> None:
    import cc3d

    segmenter = Segmenter(model(), device=CPU)
    whole, largest = (segmenter.segment(image, largest=largest).mask_zyx for largest in (False, True))
    assert cc3d.connected_components(whole, connectivity=26).max() > 1
    assert cc3d.connected_components(largest, connectivity=26).max() == 1
    assert (whole[largest > 0] == 1).all()


def test_arrays_in_files_change_nothing(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [model(((1,), (2,))), model(((1,), (2,)), seed=5)]
    inside = Segmenter(*models, device=CPU).segment(image, probabilities=True)
    monkeypatch.setattr(scratch, "LARGEST", 0)
    monkeypatch.setattr(scratch, "in_memory", lambda _: False)
    outside = Segmenter(*models, device=CPU).segment(image, probabilities=True)
    np.testing.assert_array_equal(outside.mask_zyx, inside.mask_zyx)
    np.testing.assert_array_equal(outside.share_CZYX, inside.share_CZYX)


def peak_of_segmenting(folder: Path, size: int) -> int:
    """Bytes above what was there before."""
    import torch

    torch.set_num_threads(1)
    z = np.arange(size, dtype=np.int16)[:, None, None]
    nib.save(nib.Nifti1Image(np.broadcast_to(z % 300 - 100, (size,) * 3), np.diag([2.0, 2, 2, 1])), folder / "scan.nii")
    trained = model(network={**FNET, "levels": 2, "maps": 1}, tile=32)
    segmenter = Segmenter(trained, device=CPU)
    with PeakMemory() as peak:
        segmenter.segment(folder / "scan.nii")
    return peak.bytes


def test_memory_is_a_few_bytes_per_voxel(tmp_path: Path, storm) -> None:
    edge = storm(140, 180)
    # The lesser of two peaks, where one is not enough: an allocator that another process disturbs only ever holds more.
    small = min(in_fresh_process(peak_of_segmenting, tmp_path, 40) for _ in range(2))
    # float32 intensities beside integers; and what the allocator keeps of three threads, however large a scan
    most = small + 10 * (edge**3 - 40**3) + 16_000_000
    assert any(in_fresh_process(peak_of_segmenting, tmp_path, edge) < most for _ in range(2))


def test_a_mask_that_is_packed_and_written_back_is_the_mask(shared_data: Path, tmp_path: Path) -> None:
    from hpcseg.config import PreprocessingConfig
    from hpcseg.inference.metrics import measure
    from hpcseg.volumes.datasets import open_dataset
    from hpcseg.volumes.preprocess import merge_labels
    from hpcseg.volumes.scans import read_grid, read_label, write_mask
    from hpcseg.volumes.spacing import plan_spacing

    cases = open_dataset(shared_data / "Task03_LiverCT").training
    spacing = plan_spacing(PreprocessingConfig(), [read_grid(case.image).spacing_zyx for case in cases])
    assert len(cases) == 9
    for case in cases:
        assert case.label is not None
        scan = preprocess(case.image, case.label, spacing_zyx=spacing, classes=((1, 2),), padding=-1000.0)
        assert scan.label_zyx is not None
        mask = restore(scan, (scan.label_zyx == 1).astype(np.float32)) > 0.5
        write_mask(tmp_path / "mask.nii.gz", mask.astype(np.uint8), like=case.image)
        reference = merge_labels(read_label(case.label, scan.grid), ((1, 2),))
        (found,) = measure(read_label(tmp_path / "mask.nii.gz", scan.grid), reference, 1, scan.grid.spacing_zyx, 1.0)
        assert found["dsc"] is not None and found["dsc"] >= 0.98, case.name
