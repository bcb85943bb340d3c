"""What a network sees is what decoding and normalising say, to the last bit; pooled codes are exact means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpcseg.patches.codes import pool_codes, pool_codes_on_device, table_row, windowed
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.pyramid import Coding

FLOATS = st.floats(-3000, 3000, width=32)
SHAPES = st.tuples(*[st.integers(1, 4)] * 3)


@given(
    codes=st.lists(st.integers(-32768, 32767), min_size=8, max_size=8),
    slope=st.integers(-12, 4).map(lambda power: 2.0**power),
    intercept=FLOATS,
    ends=st.tuples(FLOATS, FLOATS).map(sorted),
    mean=FLOATS,
    std=st.floats(0.01, 1000),
)
def test_values_are_those_of_decoding_and_normalising(codes, slope, intercept, ends, mean, std):
    box = np.array(codes, np.int16).reshape(2, 2, 2)
    low, high = ends
    how = Normalisation(low, high, mean, std)
    expected = how.apply(Coding(slope, intercept).decode(box))
    table = torch.from_numpy(table_row(Coding(slope, intercept), how))[None]
    found = windowed(torch.from_numpy(box)[None], table)
    assert found.shape == (1, 1, 2, 2, 2) and found.dtype == torch.float32
    np.testing.assert_array_equal(found[0, 0].numpy(), expected)


def test_each_patch_has_its_own_row():
    codes = torch.arange(16, dtype=torch.int16).reshape(2, 2, 2, 2) * 100
    ways = [Normalisation(0, 50, 10, 4), Normalisation(-20, 1000, 500, 2)]
    rows = [table_row(Coding(0.5, -100), ways[0]), table_row(Coding(2, 7), ways[1])]
    both = windowed(codes, torch.from_numpy(np.stack(rows)))
    for slot, (row, _) in enumerate(zip(rows, ways, strict=True)):
        assert torch.equal(both[slot], windowed(codes[slot : slot + 1], torch.from_numpy(row)[None])[0])


def test_intensities_are_windowed_without_a_coding_and_left_as_they_are():
    values = torch.linspace(-500, 500, 27).reshape(1, 3, 3, 3)
    before = values.clone()
    how = Normalisation(-160, 240, 40, 100)
    found = windowed(values, torch.from_numpy(table_row(Coding(1.0, 0.0), how))[None])
    np.testing.assert_array_equal(found[0, 0].numpy(), how.apply(before[0].numpy()))
    assert torch.equal(values, before)


def _by_definition(codes, factor):
    z, y, x = (edge // factor for edge in codes.shape)
    return np.rint(codes.astype(np.float64).reshape(z, factor, y, factor, x, factor).mean(axis=(1, 3, 5)))


@given(data=st.data(), factor=st.sampled_from([2, 4, 8]), shape=SHAPES)
def test_pooled_codes_are_rounded_means(data, factor, shape):
    # Few distinct codes make ties and the ends of the range likely.
    codes = st.sampled_from([-32768, -32767, -3, -1, 0, 1, 2, 32766, 32767]) | st.integers(-32768, 32767)
    seed = data.draw(arrays(np.int16, shape, elements=codes))
    box = np.kron(seed, np.ones((factor,) * 3, np.int16))
    box.ravel()[:: data.draw(st.integers(1, 7))] = data.draw(codes)
    found = pool_codes(box, factor)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, _by_definition(box, factor))
    np.testing.assert_array_equal(pool_codes_on_device(torch.from_numpy(box), factor).numpy(), found)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize("code", [-32768, 32767])
def test_the_ends_of_the_range_do_not_overflow(factor, code):
    box = np.full((factor,) * 3, code, np.int16)
    assert pool_codes(box, factor).item() == code
    assert pool_codes_on_device(torch.from_numpy(box), factor).item() == code


@pytest.mark.parametrize("total, mean", [(4, 0), (12, 2), (20, 2), (-4, 0), (-12, -2), (5, 1), (-5, -1), (3, 0)])
def test_ties_go_to_the_even_code(total, mean):
    box = np.zeros((2, 2, 2), np.int16)
    box[0, 1, 0] = total
    assert pool_codes(box, 2).item() == mean


def test_the_result_is_written_to_any_view():
    box = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    room = np.zeros((2, 2, 4), np.int16)
    out = room[:, :, ::2]
    assert pool_codes(box, 2, out) is out
    np.testing.assert_array_equal(room[:, :, ::2], pool_codes(box, 2))
    assert not room[:, :, 1::2].any()
