"""What a network sees is what decoding and normalising say, to the last bit."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.patches.codes import table_row, windowed
from hpcseg.volumes.intensities import Normalisation
from hpcseg.volumes.pyramid import Coding

FLOATS = st.floats(-3000, 3000, width=32)


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
    how = Normalisation(*ends, mean, std)
    expected = how.apply(Coding(slope, intercept).decode(box))
    table = torch.from_numpy(table_row(slope, intercept, how))[None]
    found = windowed(torch.from_numpy(box)[None], table)
    assert found.shape == (1, 1, 2, 2, 2) and found.dtype == torch.float32
    np.testing.assert_array_equal(found[0, 0].numpy(), expected)


def test_each_patch_has_its_own_row():
    codes = torch.arange(16, dtype=torch.int16).reshape(2, 2, 2, 2) * 100
    ways = [Normalisation(0, 50, 10, 4), Normalisation(-20, 1000, 500, 2)]
    rows = [table_row(0.5, -100, ways[0]), table_row(2, 7, ways[1])]
    both = windowed(codes, torch.from_numpy(np.stack(rows)))
    for slot, (row, _) in enumerate(zip(rows, ways, strict=True)):
        assert torch.equal(both[slot], windowed(codes[slot : slot + 1], torch.from_numpy(row)[None])[0])


def test_intensities_are_windowed_without_a_coding_and_left_as_they_are():
    values = torch.linspace(-500, 500, 27).reshape(1, 3, 3, 3)
    before = values.clone()
    how = Normalisation(-160, 240, 40, 100)
    found = windowed(values, torch.from_numpy(table_row(1.0, 0.0, how))[None])
    np.testing.assert_array_equal(found[0, 0].numpy(), how.apply(before[0].numpy()))
    assert torch.equal(values, before)
