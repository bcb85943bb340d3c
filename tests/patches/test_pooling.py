"""Pooled codes are exact means, rounded half to even, on host and device alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpcseg.patches.pooling import pool_codes, pool_codes_on_device

SHAPES = st.tuples(*[st.integers(1, 4)] * 3)


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
