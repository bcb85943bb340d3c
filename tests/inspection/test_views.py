"""The slices that are shown lie where they should, the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcseg.inspection.views import CT_WINDOW, Picture, View, choose_window, picture_scan, picture_stored
from hpcseg.volumes.packing import pack
from hpcseg.volumes.store import Store

SHAPE = (6, 8, 10)


def ramp() -> np.ndarray:
    """z, y, x as the digits of each voxel."""
    z, y, x = np.indices(SHAPE)
    return (100 * z + 10 * y + x).astype(np.float32)


def picture(label: np.ndarray | None = None) -> Picture:
    return picture_scan("a", ramp(), label, (5.0, 2.0, 1.0), note="RAS", window=(0, 1), labels={1: "1 liver"})


def corners(view: View) -> tuple[float, float, float, float]:
    """Intensities at the left and right bottom, left and right top."""
    bottom, top = view.image[0], view.image[-1]
    return bottom[0], bottom[-1], top[0], top[-1]


def test_the_patients_right_is_left_and_the_front_is_up_or_left() -> None:
    axial, coronal, sagittal = picture().views
    assert corners(axial) == (309, 300, 379, 370)  # z 3; x falls from left to right, y rises from bottom to top
    assert corners(coronal) == (49, 40, 549, 540)
    assert corners(sagittal) == (75, 5, 575, 505)
    assert [view.letters for view in picture().views] == ["RLPA", "RLIS", "APIS"]


def test_sizes_are_in_mm() -> None:
    assert [view.size for view in picture().views] == [(16, 10), (30, 10), (30, 16)]
    assert picture().caption == "6 × 8 × 10 voxels of 5 × 2 × 1 mm (z, y, x), RAS"


def test_slices_go_through_the_centre_of_the_label() -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[1, 2:5, 7:10] = 1
    axial, coronal, sagittal = picture(label).views
    assert (axial.title, coronal.title, sagittal.title) == ("axial 1", "coronal 3", "sagittal 8")
    assert axial.label is not None
    assert axial.label.sum() == 9
    assert axial.lines == (3.5, 1.5)
    np.testing.assert_array_equal(axial.image[2:5, :3], ramp()[1, 2:5, 9:6:-1])


def test_an_empty_label_is_shown_through_the_middle() -> None:
    assert picture(np.zeros(SHAPE, np.uint8)).views[0].title == "axial 3"


@pytest.mark.parametrize(
    ("percentiles", "under_label", "is_ct", "window"),
    [
        ((-1000, 400), None, True, CT_WINDOW),
        ((-1000, 400), (20, 150), True, CT_WINDOW),
        ((-1000, 400), (-900, -700), True, (-1000, -600)),
        ((3, 900), (20, 150), False, (3, 900)),
        ((7, 7), None, False, (6, 8)),
    ],
)
def test_windows(percentiles, under_label, is_ct: bool, window: tuple[float, float]) -> None:
    assert choose_window(percentiles, under_label, is_ct=is_ct) == window


def test_a_stored_case_is_shown_with_its_pyramid(tiny_dataset: Path, make_spec, tmp_path: Path) -> None:
    pack(make_spec(tiny_dataset), tmp_path / "store.h5")
    with Store(tmp_path / "store.h5") as store:
        case = store.case("case_001")
        found = picture_stored(case, store.spacing_zyx, (-160, 240))
        whole = case.coding.decode(case.read(0, (0, 0, 0), case.shape_zyx))
        label = case.read_label((0, 0, 0), case.shape_zyx)
    z = int(found.views[0].title.removeprefix("axial "))
    assert label[z].any()
    np.testing.assert_array_equal(found.views[0].image, whole[z, :, ::-1])
    np.testing.assert_array_equal(found.views[0].label, label[z, :, ::-1])
    assert [view.title for view in found.small] == ["level 1: 12 × 14 × 13", "level 2: 6 × 7 × 7", "level 3: 3 × 4 × 4"]
    assert [view.spacing for view in found.small] == [(4, 4), (8, 8), (16, 16)]
