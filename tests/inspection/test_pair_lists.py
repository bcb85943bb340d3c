"""Lists of pairs: what is wrong in them is one line (that they count: test_layout_guess)."""

from __future__ import annotations

import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection.pair_lists import read_pairs


@pytest.mark.parametrize(
    ("row", "message"),
    [("x.nii,b.nii", "line 3: no scan 'x.nii'"), ("a.nii,", "'a.nii' again"), (",b.nii", "no image")],
)
def test_a_wrong_line_of_a_list_is_named(row: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_pairs(f"image,label\na.nii,b.nii\n{row}\n", ["a.nii", "b.nii"])
