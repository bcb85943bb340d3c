"""What is measured of a case equals what numpy and nibabel say of its files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hpcseg.inspection.facts import CaseFacts, measure
from hpcseg.volumes.scans import read_image, read_label


def facts_of(folder: Path, write_scan, image: np.ndarray, label: np.ndarray | None, affine: np.ndarray) -> CaseFacts:
    path = write_scan(folder / "image.nii.gz", image, affine)
    volume, grid = read_image(path)
    label_zyx = None if label is None else read_label(write_scan(folder / "label.nii.gz", label, affine), grid)
    return measure("a", "training", volume, label_zyx, grid, str(image.dtype))


def test_a_labelled_scan(tmp_path: Path, write_scan) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (10, 12, 14)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[2:5, 3:6, 4:8] = 1
    label[6, 6, 6] = 3
    facts = facts_of(tmp_path, write_scan, image, label, np.diag([-2.0, 1.0, 5.0, 1.0]))
    assert (facts.shape_zyx, facts.spacing_zyx, facts.orientation) == ((14, 12, 10), (5.0, 1.0, 2.0), "LAS")
    assert (facts.low, facts.high) == (image.min(), image.max())
    assert facts.percentiles == pytest.approx(np.percentile(image, (0.5, 50, 99.5)))
    assert facts.under_label == pytest.approx(np.percentile(image[label > 0], (0.5, 50, 99.5)))
    assert facts.labels == {0: label.size - 37, 1: 36, 3: 1}
    assert (facts.voxels(1), facts.voxels(2), facts.voxel_ml) == (36, 0, pytest.approx(0.01))
    assert not facts.label_at_edge
    report = facts.to_json()
    assert json.loads(json.dumps(report)) == report
    assert report["label_ml"] == {"1": 0.36, "3": 0.01}
    assert report["intensity_percentiles"]["50"] == np.percentile(image, 50)


def test_an_unlabelled_scan(tmp_path: Path, write_scan) -> None:
    facts = facts_of(tmp_path, write_scan, np.zeros((4, 5, 6), np.float32), None, np.eye(4))
    assert (facts.labels, facts.under_label, facts.voxels(1), facts.at_maximum) == (None, None, 0, 1.0)
    assert facts.to_json()["labels"] is None


@pytest.mark.parametrize("corner", [(0, 2, 2), (5, 2, 2), (2, 0, 2), (2, 5, 2), (2, 2, 0), (2, 2, 5)])
def test_a_label_at_any_face_is_noticed(tmp_path: Path, write_scan, corner: tuple[int, int, int]) -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    label[corner] = 1
    assert facts_of(tmp_path, write_scan, np.zeros((6, 6, 6), np.int16), label, np.eye(4)).label_at_edge


def test_the_angle_of_an_oblique_scan(tmp_path: Path, write_scan) -> None:
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=np.radians(20)) @ np.diag([1, 2, 3]))
    facts = facts_of(tmp_path, write_scan, np.zeros((4, 5, 6), np.int16), None, affine)
    assert facts.oblique_deg == pytest.approx(20, abs=0.01)
    assert facts.spacing_zyx == pytest.approx((3, 2, 1))


def test_percentiles_of_a_large_scan_are_those_of_a_sample(tmp_path: Path, write_scan) -> None:
    image = np.random.default_rng(0).normal(0, 100, (120, 120, 120)).astype(np.float32)
    facts = facts_of(tmp_path, write_scan, image, None, np.eye(4))
    assert facts.percentiles == pytest.approx(np.percentile(image, (0.5, 50, 99.5)), abs=2)
    assert facts.high == image.max()


def test_the_volume_of_a_label_under_a_microscope_is_not_nothing(tmp_path: Path, write_scan) -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:4] = 1
    facts = facts_of(tmp_path, write_scan, np.arange(512.0).reshape(8, 8, 8), label, np.diag([0.01, 0.01, 0.01, 1]))
    assert facts.to_json()["label_ml"] == {"1": pytest.approx(128 * 1e-6 / 1000)}
