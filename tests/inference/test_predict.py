"""Tiles of any size agree, modes agree where they should, and planes come as soon as they are finished."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from hpcseg.errors import BadInput
from hpcseg.inference.predict import Mode, Predictor
from hpcseg.training.model import TrainedModel
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import LEVELS
from tests.inference.untrained import CPU, UNET, model


def volume_of(trained: TrainedModel, image: Path) -> ScanVolume:
    scan = preprocess(image, None, spacing_zyx=trained.spacing_zyx, classes=(), padding=trained.padding)
    return ScanVolume.of(scan, trained.pyramid_clip, LEVELS)


def probabilities(trained: TrainedModel, image: Path, mode: Mode | None = None) -> np.ndarray:
    return np.concatenate(list(Predictor(trained, CPU, mode).slabs(volume_of(trained, image))), axis=1)


@pytest.mark.parametrize("tile", [4, 8, 12, 20, 64])
def test_any_tile_size_gives_the_same_probabilities(image: Path, tile: int) -> None:
    whole = probabilities(model(tile=96), image)
    assert whole.std() > 1e-3
    np.testing.assert_allclose(probabilities(model(tile=tile), image), whole, atol=1e-5)


def test_paper_mode_equals_tiles_where_patches_are_aligned(image: Path) -> None:
    # Patch 16 in steps of 8 keeps every origin at the phase, so that averaging changes nothing.
    np.testing.assert_allclose(probabilities(model(mode="paper"), image), probabilities(model(), image), atol=1e-5)


def test_the_mode_of_the_model_can_be_overridden(image: Path) -> None:
    trained = model(mode="paper", overlap=0.3)  # steps of 11 leave the phase
    paper = probabilities(trained, image)
    np.testing.assert_array_equal(probabilities(trained, image, "tiles"), probabilities(model(), image))
    np.testing.assert_array_equal(probabilities(model(overlap=0.3), image, "paper"), paper)
    assert np.abs(paper - probabilities(trained, image, "tiles")).max() > 1e-5


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


@pytest.mark.parametrize("mode", ["tiles", "paper"])
def test_planes_leave_as_soon_as_no_tile_adds_to_them(image: Path, mode: Mode) -> None:
    trained = model(((1,), (2,)), tile=8)
    volume, told = volume_of(trained, image), []
    first = next(Predictor(trained, CPU, mode).slabs(volume, lambda *progress: told.append(progress)))
    done, tiles = told[-1]
    assert 0 < done < tiles
    assert first.shape[0] == 2
    assert 0 < first.shape[1] <= 16
    slabs = list(Predictor(trained, CPU, mode).slabs(volume))
    assert sum(slab.shape[1] for slab in slabs) == volume.shape_zyx[0]
    np.testing.assert_array_equal(slabs[0], first)


def test_tiles_equal_paper_on_a_real_ct(shared_data: Path, tmp_path: Path) -> None:
    scan = nib.nifti1.load(shared_data / "Task03_LiverCT" / "imagesTr" / "lits_005.nii.gz")
    nib.save(scan.slicer[60:140, 60:132, 10:60], tmp_path / "crop.nii.gz")
    network = {"levels": 4, "kernel": 5, "maps": 2, "init_gain": 1.5}
    trained = model(network=network, patch=64, spacing=1.5)
    tiles, paper = (probabilities(trained, tmp_path / "crop.nii.gz", mode) for mode in ("tiles", "paper"))
    assert tiles.std() > 0.01
    assert np.abs(tiles - paper).max() < 1e-4


def test_an_answer_that_is_not_finite_ends_with_a_line(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, trained = Predictor(model(), CPU), model()
    monkeypatch.setattr(predictor.network, "forward", lambda _: torch.full((1, 2, 8, 8, 8), math.nan))
    with pytest.raises(BadInput, match="model seed 3: answers with numbers that are not finite"):
        next(predictor.slabs(volume_of(trained, image)))
