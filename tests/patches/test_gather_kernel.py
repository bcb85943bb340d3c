"""The gathering kernel makes the streamed minibatches from resident volumes, to the last bit, wherever patches lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hpcseg import kernels
from hpcseg.config import AugmentationConfig
from hpcseg.patches.batches import AutoencoderBatches, SegmentationBatches
from hpcseg.patches.buffers import on_device
from hpcseg.patches.codes import table_row, windowed
from hpcseg.patches.cubes import Column, box_row, facts, foveal_rows, whole_rows
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.minibatch import Drawn, ResidentBatch
from hpcseg.patches.plain import PlainLayout
from hpcseg.patches.reading import box_corner
from hpcseg.patches.resident import ResidentCase, ResidentCases
from hpcseg.patches.sampling import Draw, Place, Stream
from hpcseg.patches.source import Source
from hpcseg.patches.transformed import TransformedLayout
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.pyramid import Coding

pytest.importorskip("triton")
GEOMETRY = FovealGeometry(6, 3, 4)
CLIP = (-200.0, 400.0)
SHAPES = {"a": (30, 41, 36), "b": (44, 28, 33), "c": (9, 8, 7)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PLAIN = Normalisation(-1e6, 1e6, 0, 1)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch, kernel_device):
    """Triton's interpreter takes its time for every line, not for every voxel."""
    if kernel_device.type == "cpu":
        monkeypatch.setattr("hpcseg.patches.kernels.gather.CUBE", 8)


@pytest.fixture(scope="module", params=[CLIP, None], ids=["clipped", "unclipped"])
def streamed(packed, request):
    generator = np.random.default_rng(0)
    volumes = {}
    for index, (name, shape) in enumerate(SHAPES.items()):
        label = (generator.random(shape) < 0.3).astype(np.uint8)
        volumes[name] = (generator.normal(0, 300 * (index + 1), shape).astype(np.float32), label)
    store = packed(volumes, clip=request.param)
    ways = [Normalisation(-100, 300, 20, 80), Normalisation(-150, 250, -10, 60), Normalisation(-1000, 900, 0, 333)]
    return [Source(store.case(name), how, store.pyramid_clip) for name, how in zip(SHAPES, ways, strict=True)]


@pytest.fixture(scope="module")
def resident(streamed, kernel_device):
    cases = ResidentCases(kernel_device)
    return [source.on_device(cases) for source in streamed]


def _segmentation(sources, lattice, **changes):
    draw = Draw(batch=2, seed=5, stream=Stream.TRAINING, lattice=lattice, **changes)
    return SegmentationBatches(sources, GEOMETRY, draw, foreground_share=0.3)


def _autoencoder(sources, lattice, **changes):
    draw = Draw(batch=2, seed=5, stream=Stream.AUTOENCODER, lattice=lattice, **changes)
    return AutoencoderBatches(sources, GEOMETRY, draw, levels=(3, 1), place=Place("uniform"))


def _gathered(rows_BCR, table_B6, dtype, device):
    """What the kernel makes, written over what could be taken for neither a value nor a class."""
    from hpcseg.patches.kernels.gather import gather

    shapes = rows_BCR[0, :, Column.SIZE_Z : Column.SIZE_X + 1].tolist()
    label = None
    if rows_BCR[0, -1, Column.IS_LABEL]:
        label = torch.full((len(rows_BCR), *shapes.pop()), -9, dtype=torch.int64, device=device)
    images = [torch.full((len(rows_BCR), 1, *shape), float("nan"), dtype=dtype, device=device) for shape in shapes]
    gather(rows_BCR, table_B6, images, label)
    return images, label


def _random_case(generator, shape, device, bounds):
    levels = [generator.integers(-32768, 32768, [-(-n // 2**level) for n in shape]) for level in range(4)]
    return ResidentCase(
        levels=tuple(torch.from_numpy(codes.astype(np.int16)).to(device) for codes in levels),
        label_ZYX=torch.from_numpy(generator.integers(0, 256, shape).astype(np.uint8)).to(device),
        paddings=tuple(generator.integers(-32768, 32768, 4).tolist()),
        bounds=bounds,
    )


def _table(generator, count):
    """Rows without a round number in them."""
    ends = np.sort(generator.normal(0, 3000, (count, 2)), axis=1)
    rows = [
        table_row(Coding(slope, intercept), Normalisation(low, high, mean, std))
        for slope, intercept, (low, high), mean, std in zip(
            generator.lognormal(-2, 1, count),
            generator.normal(0, 500, count),
            ends,
            generator.normal(0, 300, count),
            generator.lognormal(3, 2, count),
            strict=True,
        )
    ]
    return np.stack(rows)


@pytest.mark.pairs
@pytest.mark.parametrize("lattice, dtype", [(1, torch.float32), *[(4, dtype) for dtype in DTYPES]], ids=str)
@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_minibatches_are_the_streamed_ones(streamed, resident, kernel_device, kind, lattice, dtype):
    apart, together = kind(streamed, lattice), kind(resident, lattice, dtype=dtype)
    for step in range(3 if kernel_device.type == "cuda" else 1):
        raw = together.raw(step)
        assert isinstance(raw, ResidentBatch) and raw.layout.dtype == dtype
        layout: Any = raw.layout
        images, label = _gathered(layout.rows(raw.plan), raw.plan.table_B6.numpy(), dtype, kernel_device)
        expected = apart.batch(step)
        for image, other in zip(images, expected.images, strict=True):
            assert torch.equal(image.cpu(), other.to(dtype))
        assert (label is None) == (expected.label_BDHW is None)
        assert label is None or torch.equal(label.cpu(), expected.label_BDHW)


@pytest.mark.parametrize("seed", range(6))
def test_any_place_and_any_window(kernel_device, seed):
    generator = np.random.default_rng(seed)
    bounds = None if seed % 2 else (-20000, 12345)
    shapes = [generator.integers(1, 40, 3).tolist() for _ in range(3)]
    cases = [_random_case(generator, shape, kernel_device, bounds) for shape in shapes]
    unit = int(generator.choice([1, 2, 4]))
    origins = [tuple((generator.integers(-60, 60, 3) // unit * unit).tolist()) for _ in cases]
    origins[0] = (1000, -1000, 3)  # wholly outside
    table = _table(generator, 3)
    geometry = FovealGeometry(int(generator.integers(1, 5)), 1, 4)
    levels = (2, 0, 3)
    rows = foveal_rows(
        np.stack([case.level_facts for case in cases]),
        np.stack([case.label_facts for case in cases]),
        origins,
        geometry,
        levels,
    )
    images, label = _gathered(rows, table, torch.float32, kernel_device)
    unread: Any = None
    sources = [Source(unread, PLAIN, None, case) for case in cases]
    with kernels.torch_alone():
        layout = PlainLayout(3, geometry, levels, labelled=True, dtype=torch.float32)
        expected = layout.cut(Drawn(sources, origins, torch.from_numpy(table)))
    for image, other in zip(images, expected.images, strict=True):
        assert torch.equal(image.cpu(), other.cpu())
    assert torch.equal(label.cpu(), expected.label_BDHW.cpu())


@pytest.mark.parametrize("shift", range(6))
def test_means_are_exact(kernel_device, shift):
    if shift == 5 and kernel_device.type == "cpu":
        pytest.skip("too many voxels for the interpreter")
    generator = np.random.default_rng(shift)
    case = _random_case(generator, (50, 45, 67), kernel_device, None)
    case.levels[0][:, :, :16] = -32768 if shift % 2 else 32767  # the largest sums
    case.levels[0][:, :, 16:] = case.levels[0][:, :, 16:] & 1  # half of the means end in a half
    row = box_row(case.level_facts[0].tolist(), (-3, 2, -5), (2, 1, 3), False)
    row[Column.SHIFT] = shift
    table = table_row(Coding(1.0, 0.0), PLAIN)[None]
    (image,), _ = _gathered(np.array([[row]]), table, torch.float32, kernel_device)
    cube = torch.empty((3, 3, 3), dtype=torch.int16, device=kernel_device)
    edge = cube.new_empty((3 << shift,) * 3)
    case.read_stored(0, (-3, 2, -5), edge)
    means = (
        edge.cpu().numpy().astype(np.int64).reshape(3, 1 << shift, 3, 1 << shift, 3, 1 << shift).mean(axis=(1, 3, 5))
    )
    np.testing.assert_array_equal(image[0, 0].cpu().numpy(), np.rint(means)[:2, :1])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # by Triton's interpreter; infinite it is to be
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_code_is_rounded_once_and_half_to_even(monkeypatch, kernel_device, dtype):
    monkeypatch.setattr("hpcseg.patches.kernels.gather.BLOCK", 4096)
    codes = torch.arange(-32768, 32768).to(torch.int16).reshape(1, 64, 32, 32).to(kernel_device)
    for slope, intercept in ((1.0, 0.0), (0.1, -3.3), (4.0, 1.0)):
        table = torch.from_numpy(table_row(Coding(slope, intercept), PLAIN)[None])
        (image,), _ = _gathered(whole_rows([codes]), table.to(kernel_device), dtype, kernel_device)
        assert torch.equal(image.cpu(), windowed(codes.cpu(), table).to(dtype))


@pytest.mark.parametrize("seed", range(3))
def test_a_streamed_minibatch_is_windowed_by_the_same_kernel(kernel_device, seed):
    generator = np.random.default_rng(seed)
    images = [torch.from_numpy(generator.integers(-32768, 32768, (4, *(n,) * 3)).astype(np.int16)) for n in (9, 3)]
    label = torch.from_numpy(generator.integers(0, 256, (4, 5, 5, 5)).astype(np.uint8))
    table = torch.from_numpy(_table(generator, 4))
    expected = [windowed(codes, table, torch.bfloat16) for codes in images]
    there = [part.to(kernel_device) for part in (*images, label)]
    found, classes = _gathered(whole_rows(there), table.to(kernel_device), torch.bfloat16, kernel_device)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(classes.cpu(), label.to(torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF])  # a CPU's NaN and a GPU's
def test_what_is_no_number_stays_none(kernel_device, bits, dtype):
    codes = torch.ones((1, 3, 4, 5), dtype=torch.int16, device=kernel_device)
    table = torch.tensor([[1.0, 0.0, -1e3, 1e3, 0.0, 1.0]])
    table[0, 4:5].view(torch.int32).fill_(bits)
    (image,), _ = _gathered(whole_rows([codes]), table.to(kernel_device), dtype, kernel_device)
    assert image.isnan().all()


def test_the_same_again(resident, kernel_device):
    raw = _segmentation(resident, 2).raw(4)
    rows, table = raw.layout.rows(raw.plan), raw.plan.table_B6.numpy()
    first, second = (_gathered(rows.copy(), table, torch.bfloat16, kernel_device)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_volumes_of_more_voxels_than_32_bits_count(kernel_device):
    volume = torch.empty((1300, 1300, 1300), dtype=torch.int16, device=kernel_device)  # its pages are never touched,
    corner = volume[-6:, -6:, -6:]  # but for these
    corner[...] = torch.arange(216, dtype=torch.int16, device=kernel_device).reshape(6, 6, 6)
    row = box_row(facts(volume, 999), (1296, 1296, 1295), (7, 6, 5), False)
    (image,), _ = _gathered(np.array([[row]]), table_row(Coding(1.0, 0.0), PLAIN)[None], torch.float32, kernel_device)
    expected = torch.full((7, 6, 5), 999.0)
    expected[:4, :4, :5] = corner[2:, 2:, 1:].cpu()
    assert torch.equal(image[0, 0].cpu(), expected)


@pytest.mark.parametrize("kind", [_segmentation, _autoencoder])
def test_boxes_of_transformed_patches_are_copied(streamed, resident, kernel_device, kind):
    from hpcseg.patches.kernels.gather import copy_boxes

    config = AugmentationConfig(enabled=True, rotation=30)
    raw = kind(resident, 4, augmentation=config, dtype=torch.bfloat16).raw(1)
    assert isinstance(raw, ResidentBatch) and isinstance(raw.layout, TransformedLayout)
    buffer = torch.full((raw.plan.used,), 201, dtype=torch.uint8, device=kernel_device)
    copy_boxes(raw.layout.rows(raw.plan, buffer), kernel_device)
    expected = torch.full((raw.plan.used,), 201, dtype=torch.uint8)
    for slot, is_label, (level, start_3, shape_3, _), start, end in raw.plan.boxes:
        case, piece = raw.plan.drawn.residents[slot], expected[start:end]
        if is_label:
            box = torch.empty(shape_3, dtype=torch.uint8, device=kernel_device)
            case.read_label(start_3, box)
            piece[...] = box.flatten().cpu()
        else:
            box = torch.empty(shape_3, dtype=torch.int16, device=kernel_device)
            case.read_stored(level, start_3, box)
            piece.view(torch.int16)[...] = box.flatten().cpu()
    assert torch.equal(buffer.cpu(), expected)


def test_arrays_cross_in_one_piece(kernel_device):
    arrays: list[np.ndarray] = [np.arange(5), np.array([[1.5, 2]], np.float32), np.arange(7).reshape(1, 7)[:, ::-1]]
    for array, there in zip(arrays, on_device(kernel_device, *arrays), strict=True):
        assert there.device.type == kernel_device.type
        np.testing.assert_array_equal(there.cpu().numpy(), array)


def test_rows_say_where_the_boxes_of_each_level_begin(resident):
    raw: Any = _segmentation(resident, 1).raw(0)
    rows = raw.layout.rows(raw.plan)
    for patch, origin_3 in enumerate(raw.plan.origins):
        for level in range(GEOMETRY.levels):
            row = rows[patch, level]
            start_3 = row[Column.START_Z : Column.START_X + 1]
            corner = box_corner(GEOMETRY, level, origin_3)
            np.testing.assert_array_equal(start_3 << (level - row[Column.SHIFT]), corner)


@pytest.mark.needs_gpu  # too large for the interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lattice", [1, 4])
def test_the_papers_minibatches(packed, kernel_device, lattice, dtype):
    generator, geometry = np.random.default_rng(3), FovealGeometry(72, 5, 4)
    shape = (150, 171, 133)
    volume = generator.normal(0, 300, shape).astype(np.float32)
    store = packed({"large": (volume, (generator.random(shape) < 0.2).astype(np.uint8))}, clip=CLIP)
    source = Source(store.case("large"), Normalisation(-160, 240, 31.7, 77.1), store.pyramid_clip)
    draw = Draw(batch=4, seed=1, stream=Stream.TRAINING, lattice=lattice, dtype=dtype)
    expected = SegmentationBatches([source], geometry, draw, foreground_share=0.3).batch(0)
    there = source.on_device(ResidentCases(kernel_device))
    raw: Any = SegmentationBatches([there], geometry, draw, foreground_share=0.3).raw(0)
    images, label = _gathered(raw.layout.rows(raw.plan), raw.plan.table_B6.numpy(), dtype, kernel_device)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(images, expected.images, strict=True))
    assert expected.label_BDHW is not None and torch.equal(label.cpu(), expected.label_BDHW)
