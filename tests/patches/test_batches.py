"""Minibatches are normalised reads of the sampled places, pure in the step, whoever reads them."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hpcseg.config import PatchesConfig
from hpcseg.patches.batches import AutoencoderBatches, Batch, SegmentationBatches, Source, prefetched
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.reading import read_sample
from hpcseg.patches.sampling import Stream
from hpcseg.volumes.intensities import Normalisation

GEOMETRY = FovealGeometry(8, 3, 3)
CLIP = (-200.0, 400.0)
PATCHES = PatchesConfig(size=8, lattice=4, foreground_share=0.3)


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
    return SegmentationBatches(sources, GEOMETRY, PATCHES, batch=4, seed=3, stream=Stream.TRAINING)


def _autoencoder(sources, **changes):
    settings = {"levels": (0, 2), "batch": 5, "seed": 3, "stream": Stream.AUTOENCODER}
    settings |= {"sampling": "gaussian", "sigma": 0.25, "lattice": 4}
    return AutoencoderBatches(sources, GEOMETRY, **(settings | changes))


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
        norm = source.normalisation
        for image, box in zip(
            batch.images, read_sample(source.case, GEOMETRY, sample.origin_3, range(3), CLIP), strict=True
        ):
            expected = (box.clip(norm.lo, norm.hi) - norm.mean) / norm.std
            np.testing.assert_allclose(image[slot, 0].numpy(), expected, rtol=1e-6, atol=1e-6)
        label = source.case.read_label(sample.origin_3, (8, 8, 8))
        assert np.array_equal(batch.label_BDHW[slot].numpy(), label)


def test_the_share_of_foreground_is_kept(segmentation):
    for step in range(20):
        label = segmentation.batch(step).label_BDHW
        assert label[:2].flatten(1).any(dim=1).all()


def test_voxels_outside_the_volume_are_normalised_padding(sources):
    small = [sources[0]]
    batches = SegmentationBatches(small, FovealGeometry(8, 3, 4), PATCHES, batch=4, seed=0, stream=Stream.TRAINING)
    corner = batches.batch(0).images[3][:, 0, 0, 0, 0]  # 38 voxels before the target: outside in every direction
    norm = sources[0].normalisation
    assert torch.allclose(corner, torch.full((4,), (norm.lo - norm.mean) / norm.std))


def test_all_levels_of_an_autoencoder_slot_are_those_of_one_target(sources):
    batches = _autoencoder(sources, levels=(0, 1, 2))
    for slot in range(5):
        sample = batches.sample(7, slot)
        source = sources[sample.case_index]
        norm = source.normalisation
        boxes = read_sample(source.case, GEOMETRY, sample.origin_3, (0, 1, 2), CLIP)
        for image, box in zip(batches.batch(7).images, boxes, strict=True):
            expected = (box.clip(norm.lo, norm.hi) - norm.mean) / norm.std
            np.testing.assert_allclose(image[slot, 0].numpy(), expected, rtol=1e-6, atol=1e-6)


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
        SegmentationBatches(sources, GEOMETRY, PATCHES, batch=4, seed=seed, stream=stream)
        for seed, stream in ((4, Stream.TRAINING), (3, Stream.VALIDATION))
    ]
    assert not any(_equal(segmentation.batch(0), other.batch(0)) for other in others)


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_prefetched_batches_are_the_same_in_the_same_order(segmentation, ahead):
    steps = [5, 1, 1, 8, 0]
    found = list(prefetched(segmentation, steps, ahead=ahead, device="cpu"))
    assert len(found) == 5
    assert all(_equal(batch, segmentation.batch(step)) for batch, step in zip(found, steps, strict=True))


class _Counting:
    """Minibatches that only carry their step; `fail_at` raises."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at
        self.read = []

    def batch(self, step):
        self.read.append(step)
        if step == self.fail_at:
            raise OSError("disk gone")
        time.sleep(0.005 * (step % 3))
        return Batch([torch.tensor([step])], None)


def _prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_an_error_is_raised_where_its_batch_is_due():
    found = []
    with pytest.raises(OSError, match="disk gone"):
        for batch in prefetched(_Counting(fail_at=3), range(10), device="cpu"):
            found.append(batch.images[0].item())
    assert found == [0, 1, 2]
    assert not _prefetch_threads()


def test_closing_early_ends_the_threads_and_reads_no_further():
    batches = _Counting()
    iterator = prefetched(batches, itertools.count(), ahead=2, device="cpu")
    assert [next(iterator).images[0].item() for _ in range(3)] == [0, 1, 2]
    iterator.close()
    assert not _prefetch_threads()
    assert max(batches.read) <= 5


def test_the_next_batches_are_read_while_one_is_in_use():
    batches = _Counting()
    iterator = prefetched(batches, range(10), ahead=2, device="cpu")
    next(iterator)
    deadline = time.monotonic() + 5
    while len(batches.read) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(batches.read) == [0, 1, 2]
    iterator.close()
