"""Levels and int16 coding."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.pyramid import build_pyramid, choose_coding, percentile

SHAPES = st.tuples(*[st.integers(1, 13)] * 3)


@given(shape=SHAPES, clip=st.sampled_from([None, (-200.0, 400.0)]), seed=st.integers(0, 5))
def test_a_level_is_the_mean_of_its_cube_of_clipped_voxels(
    shape: tuple[int, int, int], clip: tuple[float, float] | None, seed: int
) -> None:
    volume = np.random.default_rng(seed).uniform(-1000, 1000, shape).astype(np.float32)
    padding = -1000.0
    before = volume.copy()
    pyramid = build_pyramid(volume, padding, clip, 4)
    assert pyramid[0] is volume
    assert np.array_equal(volume, before)
    assert all(level.dtype == np.float32 for level in pyramid)
    room = [8 * math.ceil(n / 8) for n in shape]
    clipped = volume if clip is None else np.clip(volume, *clip)
    padded = np.full(room, padding if clip is None else -200.0)
    padded[tuple(slice(n) for n in shape)] = clipped
    for level in range(1, 4):
        factor = 2**level
        assert pyramid[level].shape == tuple(math.ceil(n / factor) for n in shape)
        expected = padded.reshape([part for n in room for part in (n // factor, factor)]).mean(axis=(1, 3, 5))
        inner = tuple(slice(n) for n in pyramid[level].shape)
        assert np.abs(pyramid[level] - expected[inner]).max() < 1e-3


@pytest.mark.parametrize("clip", [None, (-200.0, 400.0)])
@pytest.mark.parametrize("shape", [(151, 101, 90), (2, 700, 800)])
def test_levels_of_several_parts_are_to_the_bit_those_of_the_whole(
    shape: tuple[int, int, int], clip: tuple[float, float] | None
) -> None:
    volume = np.random.default_rng(0).normal(0, 300, shape).astype(np.float32)
    expected = volume if clip is None else volume.clip(*clip)
    outside = -1000.0 if clip is None else -200.0
    for level in build_pyramid(volume, -1000.0, clip, 4)[1:]:
        even = np.pad(expected, [(0, n % 2) for n in expected.shape], constant_values=outside)
        for axis in range(3):
            even = np.moveaxis(even, axis, 0)
            even = np.moveaxis(even[::2] + even[1::2], 0, axis)
        expected = even * np.float32(1 / 8)
        assert np.array_equal(level, expected)


@given(
    size=st.integers(1, 3000),
    percent=st.one_of(st.sampled_from([0.1, 99.9, 0, 50, 100]), st.floats(0, 100)),
    step=st.sampled_from([0, 1e-3, 100]),
    seed=st.integers(0, 9),
)
def test_a_percentile_is_numpys(size: int, percent: float, step: float, seed: int) -> None:
    volume = np.random.default_rng(seed).normal(-300, 1000, (size, 1, 1)).astype(np.float32)
    if step:
        volume = (volume / step).round() * np.float32(step)
    assert percentile(volume, percent) == float(np.percentile(volume, [percent])[0])


@pytest.mark.parametrize("order", [1, -1, 0])
def test_a_percentile_of_several_parts_is_numpys(order: int) -> None:
    volume = np.random.default_rng(0).normal(0, 300, (130, 150, 140)).astype(np.float32)
    if order:
        volume = np.sort(volume.ravel())[::order].reshape(volume.shape)
    expected = np.percentile(volume, (0.1, 99.9))
    assert (percentile(volume, 0.1), percentile(volume, 99.9)) == tuple(expected)


@given(
    low=st.integers(-30_000, 30_000),
    width=st.integers(0, 64_000),
    seed=st.integers(0, 5),
    padding=st.integers(-1000, 0),
)
def test_integers_decode_exactly_where_the_slope_allows(low: int, width: int, seed: int, padding: int) -> None:
    volume = np.random.default_rng(seed).integers(low, low + width + 1, (6, 6, 6)).astype(np.float32)
    coding = choose_coding(volume, float(padding))
    assert math.log2(coding.slope).is_integer()
    if coding.slope <= 1:
        assert np.array_equal(coding.decode(coding.encode(volume)), volume)
        pad = np.full((1, 1, 1), padding, np.float32)
        assert np.array_equal(coding.decode(coding.encode(pad)), pad)
    else:
        assert np.abs(coding.decode(coding.encode(volume)) - volume).max() <= coding.slope / 2 + 0.01


@given(
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 300.0, 1e6, 1e20]), offset=st.floats(-10, 10), padding=st.floats(-20, 20)
)
def test_the_code_is_as_fine_as_its_range_allows(scale: float, offset: float, padding: float) -> None:
    volume = (np.random.default_rng(0).random((8, 8, 8)) * scale + offset * scale).astype(np.float32)
    padding = float(np.float32(padding * scale))
    coding = choose_coding(volume, padding)
    values = np.append(volume.ravel(), np.float32(padding))
    span = float(values.max()) - float(values.min())
    assert coding.slope <= 2 * span / 65_000
    error = np.abs(coding.decode(coding.encode(values)).astype(np.float64) - values)
    assert error.max() <= coding.slope / 2 + 2e-7 * np.abs(values).max()


def test_a_few_extreme_voxels_do_not_cost_the_others_their_resolution() -> None:
    volume = np.random.default_rng(0).normal(100, 20, (32, 32, 32)).astype(np.float32)
    volume[0, 0, 0] = 1.7e6
    coding = choose_coding(volume, 0.0)
    assert coding.slope < 0.1
    coded = coding.encode(volume)
    assert np.abs(coding.decode(coded) - volume).ravel()[1:].max() <= coding.slope
    assert coded[0, 0, 0] == 32767


def test_nor_do_a_few_extremely_low_ones_that_stand_for_what_is_outside(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(100, 20, (32, 32, 32)).astype(np.float32)
    lowest = values.min()
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "plain.nii")
    values[0, 0, 0] = -1e6
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "low.nii")
    plain, low = (
        preprocess(tmp_path / name, None, spacing_zyx=(1.0, 1.0, 1.0), classes=(), padding="minimum")
        for name in ("plain.nii", "low.nii")
    )
    assert plain.padding == lowest
    assert -3000 < low.padding < 0
    assert choose_coding(low.volume_zyx, low.padding).slope < 0.1


def test_rare_bright_voxels_in_a_constant_image_survive() -> None:
    volume = np.zeros((32, 32, 32), np.float32)
    volume[0, 0, :5] = 100
    coding = choose_coding(volume, 0.0)
    assert np.array_equal(coding.decode(coding.encode(volume)), volume)


def test_a_constant_image_is_coded_exactly() -> None:
    volume = np.full((3, 3, 3), 0.3, np.float32)
    coding = choose_coding(volume, float(volume[0, 0, 0]))
    assert np.array_equal(coding.decode(coding.encode(volume)), volume)


def test_clipped_values_can_be_coded_even_where_all_intensities_lie_outside_the_clip() -> None:
    volume = np.full((3, 3, 3), -900, np.float32)
    coding = choose_coding(volume, -1000.0, (-200.0, 400.0))
    clipped = np.full((1,), -200, np.float32)
    assert coding.decode(coding.encode(clipped)) == clipped
