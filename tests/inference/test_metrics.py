"""Metrics against values worked out by hand, a published result, MONAI's on random pairs, and on empty masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpcseg.inference.metrics import METRICS, measure
from hpcseg.spec import IGNORED
from hpcseg.volumes.scans import read_grid, read_label

SPACING = (2.5, 0.75, 0.5)
Labels = NDArray[np.uint8]
Values = dict[str, float | None]


def cube(*corner: int, edge: int = 6, label: int = 1) -> Labels:
    """A cube of one class on a grid of 20³ voxels."""
    mask = np.zeros((20, 20, 20), np.uint8)
    z, y, x = corner
    mask[z : z + edge, y : y + edge, x : x + edge] = label
    return mask


def ball(radius_mm: float, label: int = 1) -> Labels:
    """A ball about the middle of a grid of 29 × 81 × 121 voxels."""
    axes = [(np.arange(n) - n // 2) * size for n, size in zip((29, 81, 121), SPACING, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z**2 + y**2 + x**2 <= radius_mm**2).astype(np.uint8) * np.uint8(label)


def only(mask: Labels, reference: Labels, nsd_mm: float = 1.0, spacing: tuple[float, ...] = SPACING) -> Values:
    """The metrics of class 1."""
    (found,) = measure(mask, reference, 1, spacing, nsd_mm)  # type: ignore[arg-type]
    return found


def test_dice_of_known_overlap() -> None:
    mask, reference = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    mask[0, :2] = 1  # 8 voxels
    reference[0, 1:] = 1  # 12 voxels, 4 of them shared
    assert only(mask, reference)["dsc"] == pytest.approx(2 * 4 / 20)


def test_dice_looks_at_one_class() -> None:
    mask, reference = (np.array(row, np.uint8).reshape(1, 1, 4) for row in ([1, 2, 2, 0], [1, 1, 2, 2]))
    assert [found["dsc"] for found in measure(mask, reference, 2, SPACING, 1.0)] == pytest.approx([2 / 3, 2 / 4])


@pytest.mark.parametrize(("axis", "shift"), [(0, 1), (0, 3), (1, 2), (2, 1), (2, 5)])
def test_a_shifted_cube_is_off_by_the_shift_in_mm(axis: int, shift: int) -> None:
    mask = cube(7, 7, 7)
    moved = only(np.roll(mask, shift, axis), mask, nsd_mm=shift * SPACING[axis])
    assert moved["hd"] == moved["hd95"] == pytest.approx(shift * SPACING[axis])
    assert moved["nsd"] == 1
    assert moved["volume_difference"] == 0
    assert moved["dsc"] == pytest.approx(1 - shift / 6)


def test_a_cube_shifted_by_one_voxel_has_the_surface_distances_counted_by_hand() -> None:
    # Of the 6³ − 4³ = 152 surface voxels, only the leading face's inner 4 × 4 and its rim's 20 are in question. The
    # rim lies beside the other's rim, one voxel off; the inner ones beside its face: all 36 are one voxel off, and the
    # 16 inner ones of the trailing face, which the other cube has inside, too: one voxel from the other's own face.
    mask = cube(7, 7, 7)
    moved = only(np.roll(mask, 1, 2), mask, nsd_mm=0.25)
    assert moved["asd"] == pytest.approx((36 + 16) * 0.5 / 152)
    assert moved["nsd"] == pytest.approx(1 - (36 + 16) / 152)


def test_concentric_balls_are_apart_by_the_difference_of_their_radii() -> None:
    found = only(ball(25), ball(20), nsd_mm=3)
    coarsest = max(SPACING)
    assert found["hd"] == pytest.approx(5, abs=coarsest)
    assert found["hd95"] is not None and found["hd"] is not None and 5 - coarsest < found["hd95"] <= found["hd"]
    assert found["asd"] == pytest.approx(5, abs=coarsest / 4)
    assert found["nsd"] == pytest.approx(0, abs=0.03)
    assert found["volume_ml"] == pytest.approx(4 / 3 * math.pi * 25**3 / 1000, rel=0.01)
    assert found["reference_ml"] == pytest.approx(4 / 3 * math.pi * 20**3 / 1000, rel=0.01)
    assert found["volume_difference"] == pytest.approx(100 * (25**3 / 20**3 - 1), rel=0.03)


def test_each_class_is_measured_as_if_it_were_alone() -> None:
    mask, reference = cube(2, 3, 4), cube(3, 3, 4)
    both = measure(mask + cube(12, 12, 12, label=2), reference + cube(12, 13, 12, label=2), 3, SPACING, 1.0)
    assert both[0] == only(mask, reference)
    assert both[1] == only(cube(12, 12, 12), cube(12, 13, 12))
    assert both[2]["dsc"] is None


def test_empty_masks_have_defined_values_and_no_invented_distances() -> None:
    empty, full = np.zeros((20, 20, 20), np.uint8), cube(5, 5, 5)
    volume = 6**3 * math.prod(SPACING) / 1000
    for mask, reference, *expected in (
        (empty, empty, None, None, None, None, None, 0, 0, None),
        (full, empty, 0, None, None, 0, None, pytest.approx(volume), 0, None),
        (empty, full, 0, None, None, 0, None, 0, pytest.approx(volume), -100),
        (full, full, 1, 0, 0, 1, 0, pytest.approx(volume), pytest.approx(volume), 0),
    ):
        assert only(mask, reference) == dict(zip(METRICS, expected, strict=True))


def test_masks_of_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(cube(1, 1, 1), cube(1, 1, 1)[:-1], 1, SPACING, 1.0)


masks = st.builds(
    lambda seed, share: (np.random.default_rng(seed).random((4, 5, 6)) < share).astype(np.uint8),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.3, 0.8]),
)
sizes = st.tuples(*[st.sampled_from([0.5, 1.0, 2.25])] * 3)


@settings(max_examples=60)
@given(masks, masks, sizes, st.sampled_from([0.4, 1.0, 3.0]), st.permutations(range(3)))
def test_metrics_are_symmetric_within_their_range_and_know_no_axis(
    one: Labels, other: Labels, spacing: tuple[float, ...], nsd_mm: float, order: list[int]
) -> None:
    there, back = only(one, other, nsd_mm, spacing), only(other, one, nsd_mm, spacing)
    turned = only(one.transpose(order), other.transpose(order), nsd_mm, tuple(spacing[axis] for axis in order))
    for name in ("dsc", "hd95", "hd", "nsd", "asd"):
        value = there[name]
        assert value == pytest.approx(back[name]) and value == pytest.approx(turned[name])
        assert value is None or 0 <= value <= (1 if name in {"dsc", "nsd"} else math.inf)
    if there["hd"] is not None and there["hd95"] is not None and there["asd"] is not None:
        assert max(there["hd95"], there["asd"]) <= there["hd"] + 1e-9
        assert (there["hd"] == 0) == (there["asd"] == 0)
    assert there["volume_ml"] == back["reference_ml"]


def test_a_published_result_comes_out_again(shared_data: Path) -> None:
    """The sample of the CHAOS challenge: DICE 0.978, RAVD 0.665 %, MSSD 14 mm at slices of 2 mm."""
    path = shared_data / "Task03_LiverCT" / "labelsTr" / "chaos_ct03.nii.gz"
    grid = read_grid(path)
    assert grid.spacing_zyx[0] == 2.0
    mask = read_label(shared_data / "golden_metrics_chaos" / "chaos_ct03_samplepred.nii.gz", grid)
    found = only(mask, read_label(path, grid), spacing=grid.spacing_zyx)
    assert found["dsc"] == pytest.approx(0.97843, abs=1e-5)
    assert found["volume_difference"] == pytest.approx(-0.6645, abs=1e-3)
    assert found["hd"] == pytest.approx(14.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_metrics_are_those_of_monai(seed: int) -> None:
    pytest.importorskip("monai", reason="MONAI is not installed")
    rng = np.random.default_rng(seed)
    mask, reference, spacing = random_pair(rng)
    nsd_mm = float(rng.choice([0.5, 1.0, 2.5]))
    found, theirs = only(mask, reference, nsd_mm, spacing), of_monai(mask, reference, nsd_mm, spacing)
    for name, value in theirs.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def random_pair(rng: np.random.Generator) -> tuple[Labels, Labels, tuple[float, ...]]:
    """Smooth or ragged masks, which may reach the ends of their grid, and a spacing."""
    from scipy.ndimage import gaussian_filter

    shape = tuple(int(n) for n in rng.integers(8, 28, 3))
    smooth = rng.choice([0.0, 1.5, 3.0])
    field = gaussian_filter(rng.standard_normal(shape), smooth)
    noise = gaussian_filter(rng.standard_normal(shape), smooth)
    other = field + rng.uniform(0.05, 1.0) * noise
    level = np.quantile(field, rng.uniform(0.6, 0.97))
    mask, reference = (field > level).astype(np.uint8), (other > level).astype(np.uint8)
    mask[3, 3, 3] = reference[3, 4, 4] = 1  # neither is empty
    return mask, reference, tuple(rng.choice([0.5, 0.7265625, 1.0, 2.5, 5.0], 3).tolist())


def of_monai(mask: Labels, reference: Labels, nsd_mm: float, spacing: tuple[float, ...]) -> dict[str, Any]:
    """MONAI's metrics under our names."""
    import torch
    from monai import metrics

    pair = [torch.from_numpy(one)[None, None] for one in (mask, reference)]
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    return {
        "dsc": metrics.compute_dice(*pair, include_background=True, ignore_empty=False).item(),
        "hd95": metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item(),
        "hd": metrics.compute_hausdorff_distance(*pair, **options).item(),
        "nsd": metrics.compute_surface_dice(*pair, class_thresholds=[nsd_mm], **options).item(),
        "asd": metrics.compute_average_surface_distance(*pair, symmetric=True, **options).item(),
    }


def test_ignored_voxels_belong_to_no_mask_and_end_no_surface() -> None:
    reference, mask = cube(4, 4, 4, edge=8), cube(4, 4, 4, edge=8)
    reference[8:] = IGNORED  # half of the cube, and all below it
    mask[14:18, 4:10, 4:10] = 1  # nobody knows whether that is wrong
    found = only(mask, reference)
    assert found["dsc"] == 1 and found["nsd"] == 1 and found["hd"] == 0
    assert found["volume_ml"] == found["reference_ml"] == pytest.approx(4 * 8 * 8 * math.prod(SPACING) / 1000)
    above = np.roll(mask, -1, axis=0)  # the top is 2.5 mm off; no surface where the known part ends
    shifted = only(above, reference, nsd_mm=2.5)
    assert shifted["hd"] == 2.5 and shifted["nsd"] == 1 and shifted["dsc"] == pytest.approx(2 * 4 / 9)
    nothing = only(mask, np.full_like(mask, IGNORED))
    assert nothing["dsc"] is None and nothing["volume_ml"] == 0


def test_a_surface_that_is_all_ignored_has_no_distances() -> None:
    reference = np.full((20, 20, 20), IGNORED, np.uint8)
    reference[5:9, 5:9, 5:9] = 1
    found = only(cube(5, 5, 5, edge=4), reference)
    assert (found["dsc"], found["nsd"], found["hd"]) == (1, None, None)
