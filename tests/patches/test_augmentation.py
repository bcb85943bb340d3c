"""Transformed patches show, on ramps, the place that the transform says, the same on every level and in the label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hpcseg.config import AugmentationConfig, PatchesConfig
from hpcseg.patches.augmentation import Transform, draw_transform, read_transformed, read_transformed_label
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.reading import read_box
from hpcseg.patches.sampling import Stream
from hpcseg.patches.source import Source
from hpcseg.volumes.intensities import Normalisation

SHAPE = (96, 104, 100)
SLOPES = np.array([2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def case(packed):
    z, y, x = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    ramp = (2 * z + 3 * y + x + 1).astype(np.float32)
    label = (z >= 48).astype(np.uint8)
    return packed({"ramp": (ramp, label)}, clip=None).case("ramp")


def transform(angle=0.0, scale=1.0, shift=(0, 0, 0), centre=(48.0, 52.0, 50.0)):
    c, s = math.cos(angle), math.sin(angle)
    matrix = scale * np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return Transform(matrix, np.asarray(shift, float), np.asarray(centre))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_without_a_transform_it_is_plain_reading(case, level):
    plain = case.decode(read_box(case, level, (40, 48, 32), 7, None))
    np.testing.assert_allclose(read_transformed(case, level, (40, 48, 32), 7, transform()), plain, atol=1e-3)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "how", [{"angle": 0.3}, {"scale": 0.8}, {"shift": (2.5, -1, 4.25)}, {"angle": -0.2, "scale": 1.2}]
)
def test_on_a_ramp_every_level_shows_the_transformed_place(case, level, how):
    corner, size, t = (40, 44, 42), 16 >> level, transform(**how)
    axes = [c + (np.arange(size) + 0.5) * 2**level - 0.5 for c in corner]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    place = (place - t.centre_3) @ t.matrix_33.T + t.centre_3 + t.shift_3
    np.testing.assert_allclose(read_transformed(case, level, corner, size, t), place @ SLOPES + 1, atol=2e-2)


def test_the_label_is_the_nearest_voxels(case):
    moved = read_transformed_label(case, (40, 44, 42), 16, transform(shift=(3.4, 0, 0)))
    assert (np.unique(moved[:5]) == 0).all()  # 40 + 4 + 3.4 rounds to 47
    assert (np.unique(moved[5:]) == 1).all()


def test_outside_the_volume_is_padding(case):
    box = read_transformed(case, 1, (-60, -60, -60), 8, transform(angle=0.1))
    np.testing.assert_allclose(box, -1000, atol=1e-2)
    assert (read_transformed_label(case, (-60, 0, 0), 8, transform(angle=0.1)) == 0).all()


def test_draws_are_pure_within_limits_and_fill_them():
    config = AugmentationConfig(enabled=True, translation=10, rotation=15, log_scale=0.2)
    drawn = [draw_transform(config, 1, Stream.TRAINING, step, 3, (0, 0, 0)) for step in range(300)]
    again = draw_transform(config, 1, Stream.TRAINING, 7, 3, (0, 0, 0))
    assert np.array_equal(drawn[7].matrix_33, again.matrix_33)
    shifts = np.array([t.shift_3 for t in drawn])
    assert 9 < np.abs(shifts).max() <= 10
    scales = np.array([np.cbrt(np.linalg.det(t.matrix_33)) for t in drawn])
    assert math.exp(-0.2) <= scales.min() < 0.84
    assert 1.19 < scales.max() <= math.exp(0.2)
    rotations = [t.matrix_33 / s for t, s in zip(drawn, scales, strict=True)]
    assert all(np.allclose(r @ r.T, np.eye(3)) for r in rotations)


def batches(case, config):
    geometry = FovealGeometry(24, 3, 3)
    sources = [Source(case, Normalisation(0, 600, 0, 1), None)]
    return SegmentationBatches(
        sources, geometry, PatchesConfig(size=24), batch=4, seed=0, stream=Stream.TRAINING, augmentation=config
    )


def test_batches_are_pure_and_differ_from_plain_ones(case):
    config = AugmentationConfig(enabled=True)
    first, second = batches(case, config).batch(5), batches(case, config).batch(5)
    assert all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    assert torch.equal(first.label_BDHW, second.label_BDHW)
    plain = batches(case, None).batch(5)
    assert not torch.equal(first.images[0], plain.images[0])
    off = batches(case, AugmentationConfig()).batch(5)
    assert all(torch.equal(a, b) for a, b in zip(off.images, plain.images, strict=True))


def test_labels_move_with_the_image(case):
    batch = batches(case, AugmentationConfig(enabled=True)).batch(0)
    geometry = FovealGeometry(24, 3, 3)
    margin = -geometry.origins[0]
    target = batch.images[0][:, 0, margin : margin + 24, margin : margin + 24, margin : margin + 24]
    inside = (target > 1) & (target < 590)
    # Where z >= 48 alone decides the label, brighter voxels are labelled more often.
    assert target[inside & (batch.label_BDHW == 1)].mean() > target[inside & (batch.label_BDHW == 0)].mean()
