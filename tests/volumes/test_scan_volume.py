"""A scan in memory is read like a case of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.reading import read_sample
from hpcseg.spec import CaseRef, PackSpec
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.packing import pack
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import LEVELS, Store

SPACING = (2.0, 2.0, 2.0)


@pytest.fixture
def image(tiny_dataset: Path) -> Path:
    """26 × 28 × 24 voxels, 2 mm."""
    return tiny_dataset / "imagesTs" / "case_007.nii.gz"


def test_normalisation_applies_the_clip_and_the_scale() -> None:
    values = np.array([-5, 0, 1, 9], np.float32)
    applied = Normalisation(lo=0, hi=4, mean=1, std=2).apply(values)
    np.testing.assert_array_equal(applied, np.array([-0.5, -0.5, 0, 1.5], np.float32))


def test_scan_volume_reads_beyond_its_borders_as_padding(image: Path) -> None:
    scan = preprocess(image, None, spacing_zyx=SPACING, classes=((1,),), padding=-1000.0)
    volume = ScanVolume.of(scan, (-200.0, 400.0), LEVELS)
    box = volume.coding.decode(volume.read(0, (-2, -2, -2), (4, 4, 4)))
    assert (box[:2] == -1000).all()
    np.testing.assert_array_equal(box[2:, 2:, 2:], volume.coding.decode(volume.levels_zyx[0][:2, :2, :2]))
    room = np.zeros((4, 4, 8), np.int16)
    assert volume.read(0, (-2, -2, -2), (4, 4, 4), room[..., ::2]) is not None
    np.testing.assert_array_equal(volume.coding.decode(room[..., ::2]), box)
    assert not room[..., 1::2].any()
    assert (volume.coding.decode(volume.read(1, (500, 0, 0), (2, 2, 2))) == -200).all()


def test_inference_sees_what_training_saw(image: Path, tmp_path: Path) -> None:
    spec = PackSpec(
        id="test",
        dataset="test",
        cases=(CaseRef(name="case", image=image, label=None),),
        spacing_zyx=SPACING,
        classes=(),
        padding=-1000.0,
        pyramid_clip=(-200.0, 400.0),
    )
    pack(spec, tmp_path / "store.h5")
    scan = preprocess(image, None, spacing_zyx=SPACING, classes=(), padding=-1000.0)
    volume = ScanVolume.of(scan, spec.pyramid_clip, LEVELS)
    with Store(tmp_path / "store.h5") as store:
        case = store.case("case")
        assert volume.coding == case.coding
        for origin in ((4, 4, 4), (0, 8, 12), (3, 5, -7)):
            geometry = FovealGeometry(16, 3, 4)
            training = read_sample(case, geometry, origin, range(4), store.pyramid_clip)
            inference = read_sample(volume, geometry, origin, range(4), spec.pyramid_clip)
            for trained, seen in zip(training, inference, strict=True):
                np.testing.assert_array_equal(trained, seen)


def test_padding_has_the_code_that_a_store_gives_it(tmp_path: Path, write_scan) -> None:
    values = (1e6 + 10 * np.random.default_rng(0).random((8, 8, 8))).astype(np.float32)  # its intercept is no float32
    image = write_scan(tmp_path / "image.nii.gz", values)
    spec = PackSpec(
        id="test",
        dataset="test",
        cases=(CaseRef(name="case", image=image, label=None),),
        spacing_zyx=(1, 1, 1),
        classes=(),
        padding=1e6 - 0.3,
        pyramid_clip=(1e6 + 0.1, 1e6 + 9),
    )
    pack(spec, tmp_path / "store.h5")
    scan = preprocess(image, None, spacing_zyx=spec.spacing_zyx, classes=(), padding=1e6 - 0.3)
    with Store(tmp_path / "store.h5") as store:
        stored = store.case("case").paddings
    assert ScanVolume.of(scan, spec.pyramid_clip, LEVELS).paddings == stored


def test_scan_volume_histogram_counts_every_voxel(image: Path) -> None:
    scan = preprocess(image, None, spacing_zyx=SPACING, classes=((1,),), padding=-1000.0)
    volume = ScanVolume.of(scan, None, LEVELS)
    values, counts = volume.histogram
    assert counts.sum() == scan.volume_zyx.size
    assert (np.diff(values) > 0).all()
    expected, expected_counts = np.unique(volume.coding.decode(volume.levels_zyx[0]), return_counts=True)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(counts, expected_counts)
