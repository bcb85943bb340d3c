"""A scan's way to the network's grid and back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hpcseg.errors import BadInput
from hpcseg.volumes.preprocess import merge_labels, n_classes, preprocess
from hpcseg.volumes.scan_grid import ScanGrid
from hpcseg.volumes.scans import read_grid, read_label, write_mask
from tests.scans import restore

LPS_2MM = np.diag([-1.5, -1.5, 2.5, 1.0])


@pytest.fixture
def ball(tmp_path: Path, write_scan) -> tuple[Path, Path]:
    """A ball of 40 HU in air, off centre, 1.5 × 1.5 × 2.5 mm, LPS; its label."""
    place = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 36, 30)], indexing="ij")).astype(float)
    centre = np.array([18, 20, 13])[:, None, None, None]
    mm = np.array([1.5, 1.5, 2.5])[:, None, None, None]
    distance = np.sqrt((((place - centre) * mm) ** 2).sum(axis=0))
    body = distance < 24
    image = np.where(body, 40 + 100 * (distance < 14), -1000).astype(np.int16)
    label = (distance < 14).astype(np.uint8) + (distance < 6)
    return (
        write_scan(tmp_path / "image.nii.gz", image, LPS_2MM),
        write_scan(tmp_path / "label.nii.gz", label, LPS_2MM),
    )


def test_the_crop_is_the_box_of_what_is_above_the_padding(ball: tuple[Path, Path]) -> None:
    image, label = ball
    done = preprocess(image, label, spacing_zyx=(2.5, 1.5, 1.5), classes=(), padding=-1000.0)
    assert done.crop == (slice(4, 23), slice(0, 31), slice(6, 37))
    assert done.padding == -1000
    assert done.volume_zyx.shape == (19, 31, 31)
    assert (done.volume_zyx > -1000).any(axis=(1, 2)).all()
    assert done.label_zyx is not None
    expected = read_label(label, read_grid(image))[4:23, 0:31, 6:37] > 0
    assert np.array_equal(done.label_zyx, expected)


def test_the_padding_of_minimum_is_the_images_own(tmp_path: Path, write_scan) -> None:
    values = np.full((8, 8, 8), 17, np.float32)
    values[2:5, 3:6, 1:7] = 90
    done = preprocess(
        write_scan(tmp_path / "mr.nii.gz", values), None, spacing_zyx=(1, 1, 1), classes=(), padding="minimum"
    )
    assert done.padding == 17
    assert done.crop == (slice(1, 7), slice(3, 6), slice(2, 5))
    assert done.label_zyx is None


@pytest.mark.parametrize("padding", [-1000.0, "minimum"])
def test_a_scan_without_anything_above_the_padding_is_kept_whole(tmp_path: Path, write_scan, padding) -> None:
    path = write_scan(tmp_path / "air.nii.gz", np.full((4, 5, 6), -1024, np.int16))
    done = preprocess(path, None, spacing_zyx=(1, 1, 1), classes=(), padding=padding)
    assert done.volume_zyx.shape == (6, 5, 4)
    assert done.crop == (slice(0, 6), slice(0, 5), slice(0, 4))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (2.5, 2.0, 1.0)])
def test_a_mask_comes_back_to_the_scans_own_grid(ball: tuple[Path, Path], spacing: tuple[float, float, float]) -> None:
    image, label = ball
    done = preprocess(image, label, spacing_zyx=spacing, classes=(), padding=-1000.0)
    assert done.label_zyx is not None
    restored = restore(done, done.label_zyx.astype(np.float32))
    assert restored.dtype == np.float32
    assert restored.shape == done.grid.shape_zyx == (30, 36, 40)
    truth = read_label(label, done.grid) > 0
    mask = restored > 0.5
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95
    outside = np.ones(restored.shape, bool)
    outside[done.crop] = False
    assert (restored[outside] == 0).all()


def test_at_the_scans_own_spacing_nothing_changes(ball: tuple[Path, Path]) -> None:
    image, label = ball
    done = preprocess(image, label, spacing_zyx=(2.5, 1.5, 1.5), classes=((1,), (2,)), padding=-1000.0)
    assert done.label_zyx is not None
    restored = restore(done, done.label_zyx.astype(np.float32))
    assert np.array_equal(restored, read_label(label, done.grid))


def canonical_ball() -> tuple[np.ndarray, np.ndarray]:
    """Image (air around a body with a ramp) and label with two classes, int16 and uint8, z y x."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in (22, 26, 30)], indexing="ij")
    body = ((z - 9) / 8) ** 2 + ((y - 14) / 10) ** 2 + ((x - 13) / 12) ** 2 < 1
    label = np.where(body & (z > 4), 1 + (x > 15), 0)
    return np.where(body, 10 * x + 3 * y - 7 * z, -1000).astype(np.int16), label.astype(np.uint8)


def turned_affine(axes: tuple[int, ...], signs: tuple[int, ...], degrees: float = 0.0) -> np.ndarray:
    """Affine of a file whose axis i is the canonical axis `axes[i]` (x 0, y 1, z 2); turned about z."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (target, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[target, axis] = sign * (1.2, 1.5, 2.0)[target]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = (-31, 12, 5)
    return affine


@pytest.mark.pairs
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_the_order_and_direction_of_a_files_axes_do_not_matter(
    tmp_path: Path, write_scan, axes: tuple[int, ...], signs: tuple[int, ...], degrees: float
) -> None:
    image, label = canonical_ball()
    how: dict[str, Any] = {"spacing_zyx": (1.5, 1.6, 1.3), "classes": ((1,), (2,)), "padding": -1000.0}
    x_y_z = image.shape[::-1]
    grid = ScanGrid(turned_affine(axes, signs, degrees), tuple(x_y_z[axis] for axis in axes))
    straight = preprocess(
        write_scan(tmp_path / "straight.nii.gz", image.T, turned_affine((0, 1, 2), (1, 1, 1))),
        write_scan(tmp_path / "straight_label.nii.gz", label.T, turned_affine((0, 1, 2), (1, 1, 1))),
        **how,
    )
    path = write_scan(tmp_path / "turned.nii.gz", grid.to_file(image), grid.affine)
    label_path = write_scan(tmp_path / "turned_label.nii.gz", grid.to_file(label), grid.affine)
    done = preprocess(path, label_path, **how)
    assert done.crop == straight.crop
    assert np.array_equal(done.volume_zyx, straight.volume_zyx)
    assert done.label_zyx is not None and straight.label_zyx is not None
    assert np.array_equal(done.label_zyx, straight.label_zyx)
    own = preprocess(path, label_path, **(how | {"spacing_zyx": grid.spacing_zyx}))
    resampled = restore(straight, (straight.label_zyx == 1).astype(np.float32)) > 0.5
    for found, expected in ((done, resampled), (own, label == 1)):
        mask = restore(found, (found.label_zyx == 1).astype(np.float32)) > 0.5
        assert np.array_equal(mask, expected)
        write_mask(tmp_path / "mask.nii.gz", mask.astype(np.uint8), like=path)
        written = nib.nifti1.load(tmp_path / "mask.nii.gz")
        assert np.array_equal(np.asanyarray(written.dataobj), grid.to_file(expected))
        assert np.array_equal(written.affine, nib.nifti1.load(path).affine)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_type_of_the_voxels_does_not_matter(tmp_path: Path, write_scan, kind: type) -> None:
    image, _ = canonical_ball()
    values = (image.clip(-10, None) // 3 + 4).clip(0, 120)
    results = [
        preprocess(
            write_scan(tmp_path / "image.nii", values.T.astype(stored)),
            None,
            spacing_zyx=(0.9, 1.3, 0.8),
            classes=(),
            padding="minimum",
        )
        for stored in (np.float32, kind)
    ]
    assert results[0].crop == results[1].crop
    assert results[0].padding == results[1].padding == 0
    assert np.array_equal(results[0].volume_zyx, results[1].volume_zyx)


def test_the_number_of_threads_does_not_matter(ball: tuple[Path, Path]) -> None:
    found = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads, user_api="blas"):
            done = preprocess(*ball, spacing_zyx=(1.1, 0.7, 0.8), classes=(), padding=-1000.0)
            found.append((done.volume_zyx.tobytes(), restore(done, done.volume_zyx).tobytes()))
    assert len(set(found)) == 1


def test_several_classes_stay_apart(ball: tuple[Path, Path]) -> None:
    image, label = ball
    done = preprocess(image, label, spacing_zyx=(1, 1, 1), classes=((2,), (1,)), padding=-1000.0)
    assert done.label_zyx is not None
    centre = tuple(int(np.mean(axis)) for axis in np.nonzero(done.label_zyx))
    assert done.label_zyx[centre] == 1
    assert set(np.unique(done.label_zyx)) == {0, 1, 2}


@pytest.mark.parametrize("spacing", [(0.01, 0.01, 0.01), (1e-5, 1e6, 1e6), (5e-324, 1.0, 1.0)])
def test_an_absurd_spacing_is_refused_before_memory_is_asked_for(
    ball: tuple[Path, Path], spacing: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcseg.volumes.preprocess.resample_cubic", None)
    with pytest.raises(BadInput, match=r"image\.nii\.gz: .* too many; correct the scan's header"):
        preprocess(ball[0], None, spacing_zyx=spacing, classes=(), padding=-1000.0)


def test_voxels_of_a_kilometre_are_one_of_the_network(ball: tuple[Path, Path]) -> None:
    done = preprocess(ball[0], None, spacing_zyx=(1e6, 1e6, 1e6), classes=(), padding=-1000.0)
    assert done.volume_zyx.shape == (1, 1, 1) and np.isfinite(done.volume_zyx).all()


def test_merge_labels() -> None:
    values = np.array([[[0, 1, 2, 7, 255]]], np.uint8)
    assert merge_labels(values, ()).ravel().tolist() == [0, 1, 1, 1, 1]
    assert merge_labels(values, ((1, 2),)).ravel().tolist() == [0, 1, 1, 0, 0]
    assert merge_labels(values, ((7,), (1, 255))).ravel().tolist() == [0, 2, 0, 1, 2]
    assert (n_classes(()), n_classes(((1, 2),)), n_classes(((1,), (2,)))) == (2, 2, 3)


@pytest.mark.parametrize(("classes", "message"), [(((1,), (1, 2)), "in two classes"), (((0,),), "0 is no label value")])
def test_impossible_classes_are_refused(classes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        merge_labels(np.zeros((1, 1, 1), np.uint8), classes)
