"""Minibatches are normalised reads of the sampled places, pure in the step, whoever reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hpcseg.config import AugmentationConfig
from hpcseg.patches.batches import AutoencoderBatches, SegmentationBatches
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.prefetch import prefetched
from hpcseg.patches.reading import read_sample
from hpcseg.patches.sampling import Draw, Place, Stream
from hpcseg.patches.source import Source
from hpcseg.volumes.normalise import Normalisation

GEOMETRY = FovealGeometry(8, 3, 3)
CLIP = (-200.0, 400.0)


def _segmentation(sources, geometry=GEOMETRY, **changes):
    draw = Draw(**({"batch": 4, "seed": 3, "stream": Stream.TRAINING, "lattice": 4} | changes))
    return SegmentationBatches(sources, geometry, draw, foreground_share=0.3)


@pytest.fixture(scope="module")
def sources(packed):
    generator = np.random.default_rng(0)
    volumes = {}
    for name, shape in (("a", (30, 41, 36)), ("b", (44, 28, 33))):
        volume = generator.integers(-500, 500, shape).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        label[5:14, 8:20, 9:16] = 1
        volumes[name] = (volume, label)
    store = packed(volumes, clip=CLIP)
    return [
        Source(store.case("a"), Normalisation(lo=-100.0, hi=300.0, mean=20.0, std=80.0), store.pyramid_clip),
        Source(store.case("b"), Normalisation(lo=-150.0, hi=250.0, mean=-10.0, std=60.0), store.pyramid_clip),
    ]


@pytest.fixture
def segmentation(sources):
    return _segmentation(sources)


def _autoencoder(sources, *, levels=(0, 2), sigma=0.25, **changes):
    draw = Draw(batch=5, seed=3, stream=Stream.AUTOENCODER, lattice=4, **changes)
    return AutoencoderBatches(sources, GEOMETRY, draw, levels=levels, place=Place("gaussian", sigma))


def _equal(first, second):
    labels = first.label_BDHW is None and second.label_BDHW is None
    labels = labels or torch.equal(first.label_BDHW, second.label_BDHW)
    return labels and all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))


def test_shapes_and_types(segmentation, sources):
    batch = segmentation.batch(0)
    assert [tuple(image.shape) for image in batch.images] == [(4, 1, size, size, size) for size in GEOMETRY.inputs]
    assert all(image.dtype == torch.float32 for image in batch.images)
    assert batch.label_BDHW.shape == (4, 8, 8, 8) and batch.label_BDHW.dtype == torch.int64
    batch = _autoencoder(sources).batch(0)
    assert [tuple(image.shape) for image in batch.images] == [
        (5, 1, GEOMETRY.inputs[level]) + (GEOMETRY.inputs[level],) * 2 for level in (0, 2)
    ]
    assert batch.label_BDHW is None


def test_images_are_clipped_and_scaled_reads_of_the_sampled_place(segmentation, sources):
    batch = segmentation.batch(2)
    for slot in range(4):
        sample = segmentation.sample(2, slot)
        source = sources[sample.case_index]
        boxes = read_sample(source.case, GEOMETRY, sample.origin_3, range(3), CLIP)
        for image, box in zip(batch.images, boxes, strict=True):
            expected = source.normalisation.apply(source.case.coding.decode(box))
            np.testing.assert_array_equal(image[slot, 0].numpy(), expected)
        label = source.case.read_label(sample.origin_3, (8, 8, 8))
        assert np.array_equal(batch.label_BDHW[slot].numpy(), label)


def test_the_share_of_foreground_is_kept(segmentation):
    for step in range(20):
        label = segmentation.batch(step).label_BDHW
        assert label[:2].flatten(1).any(dim=1).all()


def test_voxels_outside_the_volume_are_normalised_padding(sources):
    batches = _segmentation([sources[0]], FovealGeometry(8, 3, 4), seed=0)
    corner = batches.batch(0).images[3][:, 0, 0, 0, 0]  # 38 voxels before the target: outside in every direction
    norm = sources[0].normalisation
    assert torch.allclose(corner, torch.full((4,), (norm.lo - norm.mean) / norm.std))


def test_all_levels_of_an_autoencoder_slot_are_those_of_one_target(sources):
    batches = _autoencoder(sources, levels=(0, 1, 2))
    for slot in range(5):
        sample = batches.sample(7, slot)
        source = sources[sample.case_index]
        boxes = read_sample(source.case, GEOMETRY, sample.origin_3, (0, 1, 2), CLIP)
        for image, box in zip(batches.batch(7).images, boxes, strict=True):
            expected = source.normalisation.apply(source.case.coding.decode(box))
            np.testing.assert_array_equal(image[slot, 0].numpy(), expected)


def test_an_autoencoder_of_one_level_sees_what_it_sees_beside_others(sources):
    alone, beside = _autoencoder(sources, levels=(2,)), _autoencoder(sources, levels=(0, 2))
    assert torch.equal(alone.batch(4).images[0], beside.batch(4).images[1])


def test_batches_do_not_depend_on_order_or_threads(segmentation, sources):
    for batches in (segmentation, _autoencoder(sources)):
        alone = {step: batches.batch(step) for step in range(6)}
        for workers in (1, 4):
            with ThreadPoolExecutor(workers) as pool:
                for step, batch in zip(reversed(range(6)), pool.map(batches.batch, reversed(range(6))), strict=True):
                    assert _equal(batch, alone[step])


def test_seeds_and_streams_give_other_batches(sources, segmentation):
    others = [
        _segmentation(sources, seed=seed, stream=stream)
        for seed, stream in ((4, Stream.TRAINING), (3, Stream.VALIDATION))
    ]
    assert not any(_equal(segmentation.batch(0), other.batch(0)) for other in others)


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_prefetched_batches_are_the_same_in_the_same_order(segmentation, ahead):
    steps = [5, 1, 1, 8, 0]
    found = list(prefetched(segmentation, steps, ahead=ahead, device="cpu"))
    assert len(found) == 5
    assert all(_equal(batch, segmentation.batch(step)) for batch, step in zip(found, steps, strict=True))


def test_a_batch_outlives_the_buffer_it_was_read_into(segmentation):
    buffer = segmentation.buffer()
    raw = segmentation.raw(1, buffer)
    batch = raw.to("cpu")
    segmentation.raw(2, buffer)
    assert _equal(batch, segmentation.batch(1))
    buffer.zero_()
    assert _equal(batch, segmentation.batch(1))


RECIPE = AugmentationConfig(
    enabled=True,
    mirror=("x", "y"),
    elastic=2,
    elastic_spacing=8,
    brightness=0.5,
    contrast=0.3,
    gamma=0.4,
    noise=0.2,
    blur=1.5,
    intensity_share=0.5,
)


def _augmented(sources, **changes):
    return _segmentation(sources, **({"batch": 3, "augmentation": RECIPE} | changes))


def test_augmented_batches_fit_their_buffer_too(sources):
    batches = _augmented(sources)
    buffer = batches.buffer()
    for step in (2, 0, 2):
        buffer.fill_(255)  # what is left in a buffer is never seen
        assert _equal(batches.raw(step, buffer).to("cpu"), batches.batch(step))
    assert not batches.batch(2).images[0].isnan().any()


def test_augmented_batches_do_not_depend_on_order_or_threads(sources):
    for batches in (_augmented(sources), _autoencoder(sources, augmentation=RECIPE)):
        alone = {step: batches.batch(step) for step in range(6)}
        for ahead in (0, 3):
            found = prefetched(batches, reversed(range(6)), ahead=ahead, device="cpu")
            assert all(_equal(batch, alone[step]) for step, batch in zip(reversed(range(6)), found, strict=True))


def test_a_transformed_patch_does_not_depend_on_the_others_of_its_minibatch(sources):
    one, three = _augmented(sources, batch=1), _augmented(sources, batch=3)
    for image, images in zip(one.batch(4).images, three.batch(4).images, strict=True):
        assert torch.equal(image[0], images[0])


def test_ranks_see_the_patches_of_one(sources):
    whole = _augmented(sources, batch=5).batch(2)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        own = _augmented(sources, batch=5, part=part).batch(2)
        assert torch.equal(own.label_BDHW, whole.label_BDHW[part])
        assert all(torch.equal(image, images[part]) for image, images in zip(own.images, whole.images, strict=True))


def test_a_level_is_the_same_beside_whichever_others(sources):
    one, two = (_autoencoder(sources, levels=levels, augmentation=RECIPE) for levels in ((1,), (0, 2, 1)))
    assert torch.equal(one.batch(3).images[0], two.batch(3).images[2])


def test_transforms_that_move_nothing_give_the_plain_patches(sources):
    still = AugmentationConfig(enabled=True, translation=0, rotation=0, log_scale=0)
    plain = _augmented(sources, augmentation=None)  # its lattice puts every level on whole stored voxels
    for step in range(4):
        assert _equal(_augmented(sources, augmentation=still).batch(step), plain.batch(step))


def test_intensities_are_clipped_after_they_were_interpolated(packed):
    stripes = np.tile(np.array([-300.0, 500.0], np.float32), (24, 24, 12))
    case = packed({"stripes": (stripes, None)}, clip=None).case("stripes")
    source = Source(case, Normalisation(lo=0.0, hi=150.0, mean=0.0, std=1.0), None)
    batches = _autoencoder([source], levels=(0,), sigma=0.01, augmentation=AugmentationConfig(enabled=True))
    seen = batches.batch(0).images[0]
    ends = (seen == 0) | (seen == 150)
    assert ends.float().mean() > 0.7  # 81 % of the way between two stripes; none of it had they been clipped first


@pytest.mark.needs_gpu
@pytest.mark.parametrize("enabled", [False, True])
def test_a_gpu_windows_what_it_fetches_from_pinned_memory(sources, enabled):
    augmentation = AugmentationConfig(enabled=enabled)
    batches = _segmentation(sources, augmentation=augmentation)
    assert batches.buffer(pinned=True).is_pinned()
    for step, found in enumerate(prefetched(batches, range(8), device="cuda")):
        expected = batches.batch(step)
        assert torch.equal(found.label_BDHW.cpu(), expected.label_BDHW)
        for image, values in zip(found.images, expected.images, strict=True):
            torch.testing.assert_close(image.cpu(), values, rtol=1e-6, atol=1e-6)
