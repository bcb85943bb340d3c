"""Minibatches cut from resident volumes are the streamed ones, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcseg import kernels
from hpcseg.config import AugmentationConfig
from hpcseg.patches.batches import AutoencoderBatches, SegmentationBatches
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.minibatch import CodedBatch, ResidentBatch
from hpcseg.patches.plain import PlainLayout
from hpcseg.patches.prefetch import prefetched
from hpcseg.patches.resident import ResidentCases, resident_bytes
from hpcseg.patches.sampling import Draw, Place, Stream
from hpcseg.patches.source import Source
from hpcseg.patches.transformed import TransformedLayout
from hpcseg.volumes.normalise import Normalisation
from tests.patches.boxes import read_box

GEOMETRY = FovealGeometry(8, 3, 4)
CLIP = (-200.0, 400.0)
SHAPES = {"a": (30, 41, 36), "b": (44, 28, 33), "c": (9, 8, 7)}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.needs_gpu),
]


@pytest.fixture(scope="module")
def streamed(packed):
    generator = np.random.default_rng(0)
    volumes = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        label = (generator.random(shape) < 0.3).astype(np.uint8)
        volumes[name] = (generator.normal(0, 300 * (index + 1), shape).astype(np.float32), label)
    store = packed(volumes, clip=CLIP)
    ways = [Normalisation(-100, 300, 20, 80), Normalisation(-150, 250, -10, 60), Normalisation(-1000, 900, 0, 333)]
    return [Source(store.case(name), how, store.pyramid_clip) for name, how in zip(SHAPES, ways, strict=True)]


@pytest.fixture(scope="module")
def resident(streamed):
    cases = ResidentCases("cpu")
    return [source.on_device(cases) for source in streamed]


def _segmentation(sources, lattice, **changes):
    draw = Draw(batch=6, seed=5, stream=Stream.TRAINING, lattice=lattice, **changes)
    return SegmentationBatches(sources, GEOMETRY, draw, foreground_share=0.3)


def _autoencoder(sources, lattice, **changes):
    draw = Draw(batch=6, seed=5, stream=Stream.AUTOENCODER, lattice=lattice, **changes)
    return AutoencoderBatches(sources, GEOMETRY, draw, levels=(3, 1), place=Place("uniform"))


def _equal(first, second):
    assert (first.label_BDHW is None) == (second.label_BDHW is None)
    labels = first.label_BDHW is None or torch.equal(first.label_BDHW, second.label_BDHW)
    return labels and all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))


@pytest.mark.parametrize("lattice", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_resident_batches_are_the_streamed_ones(streamed, resident, kind, lattice):
    apart, together = kind(streamed, lattice), kind(resident, lattice)
    for step in range(8):
        raw = together.raw(step)
        assert isinstance(raw, ResidentBatch)
        assert _equal(raw.to("cpu"), apart.batch(step))


@pytest.mark.needs_gpu
@pytest.mark.parametrize("lattice", [1, 4])
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_on_a_gpu_both_tiers_give_the_same_bits(streamed, kind, lattice):
    cases = ResidentCases("cuda")
    apart, together = kind(streamed, lattice), kind([source.on_device(cases) for source in streamed], lattice)
    pairs = zip(prefetched(apart, range(6), device="cuda"), prefetched(together, range(6), device="cuda"), strict=True)
    assert all(_equal(first, second) for first, second in pairs)


@settings(max_examples=100, deadline=None)
@given(
    index=st.integers(0, 2),
    level=st.integers(0, 4),
    corner_3=st.tuples(*[st.integers(-50, 60)] * 3),
    unit=st.sampled_from([1, 2, 4, 8]),
    size=st.integers(1, 5),
)
def test_any_box_has_the_codes_of_the_store(streamed, resident, index, level, corner_3, unit, size):
    z, y, x = (corner // unit * unit for corner in corner_3)
    found = torch.full((size,) * 3, 99, dtype=torch.int16)
    resident[index].resident.read_box(level, (z, y, x), found)
    expected = read_box(streamed[index].case, level, (z, y, x), size, CLIP)
    np.testing.assert_array_equal(found.numpy(), expected)
    label = torch.full((size,) * 3, 99, dtype=torch.uint8)
    resident[index].resident.read_label((z, y, x), label)
    np.testing.assert_array_equal(label.numpy(), streamed[index].case.read_label((z, y, x), (size,) * 3))


@pytest.mark.parametrize("device", DEVICES)
def test_a_case_is_uploaded_once_and_takes_the_bytes_that_were_foreseen(streamed, device):
    cases = ResidentCases(device)
    twice = [source.on_device(cases).resident for source in (*streamed, *streamed)]
    assert twice[:3] == twice[3:]
    tensors = [tensor for case in twice[:3] for tensor in (*case.levels, case.label_ZYX)]
    assert all(tensor.device.type == device for tensor in tensors)
    assert sum(tensor.nbytes for tensor in tensors) == resident_bytes([source.case for source in streamed * 2])


def test_other_labels_of_the_same_images_are_all_that_is_uploaded_for_them(streamed):
    source, cases = streamed[0], ResidentCases("cpu")
    other = replace(source, case=source.case.with_labels(streamed[0].case))
    again = replace(source, case=source.case.with_labels(streamed[0].case))
    own, labelled, same = (one.on_device(cases).resident for one in (source, other, again))
    assert labelled is same and labelled is not own and labelled.levels is own.levels
    assert labelled.label_ZYX.data_ptr() != own.label_ZYX.data_ptr()
    np.testing.assert_array_equal(labelled.label_ZYX, own.label_ZYX)
    bytes_of = [resident_bytes([one.case for one in some]) for some in ([source], [source, other, again])]
    assert bytes_of[1] - bytes_of[0] == own.label_ZYX.nbytes


def test_unlabelled_cases_take_no_label(packed):
    volume = np.random.default_rng(1).normal(0, 100, (12, 13, 14)).astype(np.float32)
    store = packed({"plain": (volume, None)})
    case = ResidentCases("cpu").case(store.case("plain"), store.pyramid_clip)
    assert case.label_ZYX is None
    assert sum(codes.nbytes for codes in case.levels) == resident_bytes([store.case("plain")])


def test_sources_of_both_kinds_are_streamed(streamed, resident):
    mixed = _segmentation([streamed[0], *resident[1:]], 4)
    assert isinstance(mixed.raw(0), CodedBatch)
    assert _equal(mixed.batch(3), _segmentation(streamed, 4).batch(3))


@pytest.mark.parametrize("lattice", [1, 4])
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
@pytest.mark.parametrize(
    "changes", [{}, {"elastic": 3, "elastic_spacing": 12, "mirror": ("x",), "noise": 1, "gamma": 0.5}]
)
def test_transformed_patches_of_resident_volumes_are_the_streamed_ones(streamed, resident, kind, lattice, changes):
    config = AugmentationConfig(enabled=True, rotation=30, **changes)
    apart, together = kind(streamed, lattice, augmentation=config), kind(resident, lattice, augmentation=config)
    assert together.buffer() is None
    for step in range(8):
        raw = together.raw(step)
        assert isinstance(raw, ResidentBatch) and isinstance(raw.layout, TransformedLayout)
        assert _equal(raw.to("cpu"), apart.batch(step))


def test_augmentation_that_is_off_changes_nothing(streamed, resident):
    off = _segmentation(resident, 4, augmentation=AugmentationConfig())
    assert isinstance(off.raw(0).layout, PlainLayout)
    assert _equal(off.batch(1), _segmentation(streamed, 4).batch(1))


@pytest.mark.needs_gpu
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_on_a_gpu_transformed_patches_of_both_tiers_have_the_same_bits(streamed, kind):
    config, cases = AugmentationConfig(enabled=True), ResidentCases("cuda")
    together = kind([source.on_device(cases) for source in streamed], 4, augmentation=config)
    apart = kind(streamed, 4, augmentation=config)
    pairs = zip(prefetched(apart, range(6), device="cuda"), prefetched(together, range(6), device="cuda"), strict=True)
    assert all(_equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "augmentation",
    [None, AugmentationConfig(enabled=True), AugmentationConfig(enabled=True, noise=1, blur=1, gamma=0.5)],
)
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_images_of_16_bits_are_the_values_rounded_once(streamed, resident, kind, augmentation, dtype):
    changes = {"augmentation": augmentation}
    expected = kind(streamed, 4, **changes).batch(2)
    for sources in (streamed, resident):
        found = kind(sources, 4, dtype=dtype, **changes).batch(2)
        assert all(torch.equal(a, b.to(dtype)) for a, b in zip(found.images, expected.images, strict=True))
        assert all(image.dtype == torch.float32 for image in kind(sources, 4, **changes).batch(2).images)
        assert found.label_BDHW is None or torch.equal(found.label_BDHW, expected.label_BDHW)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alone", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_a_gpu_makes_the_bits_of_the_cpu(streamed, kind, alone, dtype):
    cases = ResidentCases("cuda")
    there = [source.on_device(cases) for source in streamed]
    with kernels.torch_alone(alone):
        for sources in (streamed, there):
            for step, batch in enumerate(prefetched(kind(sources, 1, dtype=dtype), range(5), device="cuda")):
                assert _equal(batch.to("cpu"), kind(streamed, 1, dtype=dtype).batch(step))


def test_a_case_is_uploaded_whole_slab_by_slab(packed):
    generator = np.random.default_rng(2)
    shape = (71, 13, 35)
    label = generator.integers(0, 2, shape).astype(np.uint8)
    store = packed({"long": (generator.normal(0, 100, shape).astype(np.float32), label)})
    stored = store.case("long")
    case = ResidentCases("cpu").case(stored, store.pyramid_clip)
    for level, codes in enumerate(case.levels):
        np.testing.assert_array_equal(codes.numpy(), stored.read(level, (0, 0, 0), stored.shape_of(level)))
    np.testing.assert_array_equal(case.label_ZYX.numpy(), label)


def test_resident_batches_are_prefetched_without_a_buffer(streamed, resident):
    batches = _segmentation(resident, 4)
    assert batches.buffer() is None
    steps = [4, 0, 4, 2]
    found = list(prefetched(batches, steps, device="cpu"))
    apart = _segmentation(streamed, 4)
    assert all(_equal(batch, apart.batch(step)) for batch, step in zip(found, steps, strict=True))
