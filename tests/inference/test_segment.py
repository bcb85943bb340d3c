"""Whole volumes: tiles of any size agree, modes agree where they should, masks come back on the scan's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.inference.files import scan_name, segment_files
from hpcseg.inference.segment import Segmenter
from hpcseg.inference.volume import ScanVolume
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.reading import read_sample
from hpcseg.spec import CaseRef, PackSpec
from hpcseg.training.model import TrainedModel, new_network
from hpcseg.volumes.intensities import Normalisation, normalisation
from hpcseg.volumes.packing import pack
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.store import LEVELS, Store

SPACING = (2.0, 2.0, 2.0)


FNET: dict[str, Any] = {"levels": 3, "kernel": 3, "maps": 4, "init_gain": 1.0}
UNET: dict[str, Any] = {"kind": "unet", "levels": 2, "kernel": 3, "maps": (3, 4), "init_gain": 1.0}


def model(
    classes: tuple[tuple[int, ...], ...] = ((1, 2),), network: dict[str, Any] = FNET, **inference: Any
) -> TrainedModel:
    """An untrained network whose random weights are large enough to make a structured prediction."""
    config = RunConfig.model_validate(
        {
            "patches": {"size": 16},
            "network": network,
            "preprocessing": {"intensity": "window"},
            "inference": inference,
        }
    )
    fresh = new_network(config, len(classes), torch.Generator().manual_seed(3))
    return TrainedModel(
        config=config,
        spacing_zyx=SPACING,
        classes=classes,
        padding=-1000.0,
        pyramid_clip=(-200.0, 400.0),
        window=None,
        weights=fresh.state_dict(),
        provenance={},
    )


def probabilities(trained: TrainedModel, image: Path) -> np.ndarray:
    scan = preprocess(image, None, spacing_zyx=SPACING, classes=trained.classes, padding=-1000.0)
    volume = ScanVolume.of(scan, trained.pyramid_clip, LEVELS)
    how = normalisation(trained.config.preprocessing, volume.histogram, None)
    return Segmenter(trained, torch.device("cpu"))._predict(volume, how, None)


@pytest.fixture
def image(tiny_dataset: Path) -> Path:
    return tiny_dataset / "imagesTs" / "case_007.nii.gz"


@pytest.mark.parametrize("tile", [4, 8, 12, 20, 64])
def test_any_tile_size_gives_the_same_probabilities(image: Path, tile: int) -> None:
    whole = probabilities(model(tile=96), image)
    assert whole.std() > 1e-3
    np.testing.assert_allclose(probabilities(model(tile=tile), image), whole, atol=1e-5)


def test_paper_mode_equals_tiles_where_patches_are_aligned(image: Path) -> None:
    # Patch 16 in steps of 8 keeps every origin at the phase, so that averaging changes nothing.
    np.testing.assert_allclose(probabilities(model(mode="paper"), image), probabilities(model(), image), atol=1e-5)


@pytest.mark.parametrize("how", [{"tile": 8}, {"tile": 32}, {"mode": "paper"}])
def test_unet_with_a_margin_as_wide_as_it_sees_gives_the_same_probabilities_from_any_tile(
    image: Path, how: dict[str, Any]
) -> None:
    wide = {**UNET, "margin": 12}
    whole = probabilities(model(network=wide, tile=96), image)
    assert whole.std() > 1e-3
    np.testing.assert_allclose(probabilities(model(network=wide, **how), image), whole, atol=1e-5)


def test_unet_tiles_are_as_large_as_its_training_patches(image: Path) -> None:
    narrow = {**UNET, "margin": 2}
    found = probabilities(model(network=narrow), image)
    np.testing.assert_array_equal(found, probabilities(model(network=narrow, tile=16), image))
    assert np.abs(found - probabilities(model(network=narrow, tile=96), image)).max() > 1e-5


def test_normalisation_applies_the_clip_and_the_scale() -> None:
    values = np.array([-5, 0, 1, 9], np.float32)
    applied = Normalisation(lo=0, hi=4, mean=1, std=2).apply(values)
    np.testing.assert_array_equal(applied, np.array([-0.5, -0.5, 0, 1.5], np.float32))


def test_scan_volume_reads_beyond_its_borders_as_padding(image: Path) -> None:
    scan = preprocess(image, None, spacing_zyx=SPACING, classes=((1,),), padding=-1000.0)
    volume = ScanVolume.of(scan, (-200.0, 400.0), LEVELS)
    box = volume.decode(volume.read(0, (-2, -2, -2), (4, 4, 4)))
    assert (box[:2] == -1000).all()
    np.testing.assert_array_equal(box[2:, 2:, 2:], volume.decode(volume.levels_zyx[0][:2, :2, :2]))
    room = np.zeros((4, 4, 8), np.int16)
    assert volume.read(0, (-2, -2, -2), (4, 4, 4), room[..., ::2]) is not None
    np.testing.assert_array_equal(volume.decode(room[..., ::2]), box)
    assert not room[..., 1::2].any()
    assert (volume.decode(volume.read(1, (500, 0, 0), (2, 2, 2))) == -200).all()


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
        assert (volume.slope, volume.intercept) == (case.slope, case.intercept)
        for origin in ((4, 4, 4), (0, 8, 12), (3, 5, -7)):
            geometry = FovealGeometry(16, 3, 4)
            training = read_sample(case, geometry, origin, range(4), store.pyramid_clip)
            inference = read_sample(volume, geometry, origin, range(4), spec.pyramid_clip)
            for trained, seen in zip(training, inference, strict=True):
                np.testing.assert_array_equal(trained, seen)


def test_scan_volume_histogram_counts_every_voxel(image: Path) -> None:
    scan = preprocess(image, None, spacing_zyx=SPACING, classes=((1,),), padding=-1000.0)
    volume = ScanVolume.of(scan, None, LEVELS)
    values, counts = volume.histogram
    assert counts.sum() == scan.volume_zyx.size
    assert (np.diff(values) > 0).all()
    expected, expected_counts = np.unique(volume.decode(volume.levels_zyx[0]), return_counts=True)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "SAR"])
def test_turned_file_gives_the_turned_mask(image: Path, tmp_path: Path, orientation: str) -> None:
    plain = nib.load(image)
    turned = plain.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
        )
    )
    nib.save(turned, tmp_path / "turned.nii.gz")
    masks = list(segment_files(save(model(), tmp_path), [image, tmp_path / "turned.nii.gz"], tmp_path / "masks"))
    first, second = (nib.load(mask) for mask in masks)
    np.testing.assert_allclose(second.affine, turned.affine)
    assert second.shape == turned.shape
    back = nib.as_closest_canonical(second)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(first.dataobj))
    assert 0 < np.asarray(first.dataobj).mean() < 1


def test_several_classes_take_the_most_probable_one(image: Path) -> None:
    trained = model(classes=((1,), (2,)))
    probability = probabilities(trained, image)
    assert probability.shape[0] == 2
    mask = Segmenter(trained, torch.device("cpu")).segment(image).mask_zyx
    assert set(np.unique(mask)) <= {0, 1, 2}
    assert len(np.unique(mask)) > 1


def save(trained: TrainedModel, folder: Path) -> Path:
    trained.save(folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("network", [FNET, UNET], ids=["fnet", "unet"])
def test_model_file_round_trip(tmp_path: Path, network: dict[str, Any]) -> None:
    first = model(classes=((1,), (2, 3)), network=network)
    second = TrainedModel.load(save(first, tmp_path))
    assert second.config == first.config
    assert second.classes == first.classes
    assert (second.spacing_zyx, second.padding, second.pyramid_clip) == (SPACING, -1000.0, (-200.0, 400.0))
    assert all(torch.equal(second.weights[key], first.weights[key]) for key in first.weights)


def test_existing_masks_are_not_overwritten_unless_asked(image: Path, tmp_path: Path) -> None:
    path = save(model(), tmp_path)
    mask = next(segment_files(path, [image], tmp_path / "masks"))
    with pytest.raises(BadInput, match=r"exists.*--force"):
        next(segment_files(path, [image], tmp_path / "masks"))
    assert next(segment_files(path, [image], tmp_path / "masks", force=True)) == mask


def test_a_scan_is_never_replaced_by_its_own_mask(image: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(image.read_bytes())
    with pytest.raises(BadInput, match="exists"):
        next(segment_files(save(model(), tmp_path), [scan], tmp_path, force=True))
    assert scan.read_bytes() == image.read_bytes()


def test_missing_model_and_equal_names_are_one_line(image: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no trained model"):
        next(segment_files(tmp_path, [image], tmp_path / "masks"))
    with pytest.raises(BadInput, match="second scan named case_007"):
        next(segment_files(save(model(), tmp_path), [image, image], tmp_path / "masks"))


def test_scan_name_drops_the_nifti_ending_only() -> None:
    assert scan_name(Path("a/b.c.nii.gz")) == "b.c"
    assert scan_name(Path("b.nii")) == "b"
