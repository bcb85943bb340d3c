"""Parts of a volume."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hpcseg.volumes.slabs import slabs


@given(shape=st.lists(st.integers(0, 40), min_size=1, max_size=4), voxels=st.integers(1, 5000))
def test_slabs_cover_the_first_axis_once_and_are_as_small_as_asked(shape: list[int], voxels: int) -> None:
    parts = list(slabs(shape, voxels))
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(shape[0]))
    for part in parts:
        assert part.stop - part.start == 1 or (part.stop - part.start) * math.prod(shape[1:]) <= voxels
