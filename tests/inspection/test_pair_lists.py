"""Lists of pairs: what is wrong in them is one line (that they count: test_layout_guess)."""

from __future__ import annotations

import pytest

from hpcseg.errors import BadInput
from hpcseg.inspection.pair_lists import read_pairs


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.nii,b.nii", "line 3: no scan 'x.nii'"),
        ("a.nii,", "'a.nii' again"),
        (",b.nii", "no image"),
        ("c.nii,b.nii", "line 3 names 'b.nii' again"),
        ("c.nii,c.nii", "line 3 names 'c.nii' again"),
        ("b.nii,", "line 3 names 'b.nii' again"),
        ('c.nii,"' + 200_000 * "1 ", "cannot be read as CSV"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(row: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_pairs(f"image,label\na.nii,b.nii\n{row}\n", ["a.nii", "b.nii", "c.nii"])


def test_a_table_that_names_no_scan_is_no_list() -> None:
    assert read_pairs("patient,volume,label\n1,1534.2,benign\n", ["a.nii"]) is None
    assert read_pairs("patient,volume,label\na,3,1\n", ["a.nii"]) is None
    with pytest.raises(BadInput, match="no scan 'a' in the folder"):
        read_pairs("image,label\na,a_seg\n", ["a.nii", "a_seg.nii"])
