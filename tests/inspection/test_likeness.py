"""Duplicates that are made on purpose are found, with their kind; other scans are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hpcseg.inspection.fingerprints import Fingerprint, fingerprint
from hpcseg.inspection.likeness import Likeness, find_alike
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.scans import read_image

CT = (-160.0, 240.0)
SPACING = (5.0, 2.0, 2.0)


def anatomy(seed: int) -> np.ndarray:
    """A smooth random body in air, unlike any other."""
    rng = np.random.default_rng(seed)
    body = gaussian_filter(rng.normal(size=(24, 48, 48)), (3, 6, 6)) * 15000
    body[:, :6] = body[:, -6:] = body[:, :, :6] = body[:, :, -6:] = -1000
    return body.round().astype(np.float32)


def prints(volume: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> Fingerprint:
    return fingerprint(np.ascontiguousarray(volume, dtype=np.float32), spacing, CT)


@pytest.fixture(scope="module")
def cohort() -> list[Fingerprint]:
    return [prints(anatomy(seed)) for seed in range(12)]


def alike(cohort: list[Fingerprint], *more: np.ndarray) -> list[tuple[str, tuple[int, ...]]]:
    return [(item.kind, item.cases) for item in find_alike([*cohort, *map(prints, more)])]


def test_different_scans_are_not_alike(cohort: list[Fingerprint]) -> None:
    assert find_alike(cohort) == []
    assert find_alike([]) == []
    assert find_alike(cohort[:1]) == []


def test_the_same_voxels_are_identical(cohort: list[Fingerprint]) -> None:
    assert alike(cohort, anatomy(3), anatomy(3)) == [("identical", (3, 12, 13))]


def test_another_spacing_does_not_hide_the_same_voxels(cohort: list[Fingerprint]) -> None:
    assert find_alike([*cohort, prints(anatomy(3), (1.0, 1.0, 1.0))]) == [Likeness("identical", (3, 12))]


def test_a_flipped_copy_holds_the_same_voxels(cohort: list[Fingerprint]) -> None:
    assert alike(cohort, anatomy(5)[:, :, ::-1]) == [("rearranged", (5, 12))]


@pytest.mark.parametrize("size", [1, 12])
@pytest.mark.parametrize(
    "change",
    [
        lambda volume: volume * 0.37 + 200,
        lambda volume: volume + np.random.default_rng(0).normal(0, 20, volume.shape) * (volume > -1000),
        lambda volume: (volume.clip(-1000, 1000) / 8).round(),
        lambda volume: (volume[::2] + volume[1::2]) / 2,
    ],
    ids=["rescaled", "noisy", "quantised", "thicker slices"],
)
def test_a_copy_with_other_intensities_or_sampling_is_likely(cohort: list[Fingerprint], change, size: int) -> None:
    assert alike(cohort[:size], change(anatomy(0))) == [("resaved", (0, size))]


def test_a_part_along_z_is_likely_one_patient(cohort: list[Fingerprint]) -> None:
    (found,) = find_alike([*cohort, prints(anatomy(7)[6:20])])
    assert (found.kind, found.cases) == ("one patient", (7, 12))
    assert found.score is not None
    assert 0.9 < found.score <= 1


def test_crops_with_one_step_are_likely_one_scan(cohort: list[Fingerprint]) -> None:
    crops = [1.234567 * anatomy(20)[:, :20], 1.234567 * anatomy(20)[:, 28:], 1.234599 * anatomy(21)]
    assert alike(cohort, *crops) == [("one scan", (12, 13))]


def test_a_step_that_many_share_says_nothing() -> None:
    assert find_alike([prints(1.234567 * anatomy(seed)) for seed in range(12)]) == []


def test_scans_that_are_registered_to_each_other_are_not_alike() -> None:
    """What all share makes none of them a duplicate; a real one still is."""
    common = anatomy(99) * 20
    cohort = [prints(common + anatomy(seed)) for seed in range(12)]
    assert find_alike(cohort) == []
    assert alike(cohort, 2 * (common + anatomy(4))) == [("resaved", (4, 12))]


def test_real_cts_of_one_patient(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "Task03_LiverCT")
    names = [case.name for case in (*dataset.training, *dataset.test)]
    found = []
    for case in (*dataset.training, *dataset.test):
        volume, grid = read_image(case.image)
        found.append(fingerprint(volume, grid.spacing_zyx, CT))
    (patient,) = find_alike(found)
    assert patient.kind == "one patient"
    assert {names[n] for n in patient.cases} == {"lits_006", "lits_007", "lits_009", "lits_010"}


def test_real_hippocampi_of_one_subject(shared_data: Path) -> None:
    """Every pair of float images that `splits.json` keeps together is found, and one other case that has their step."""
    dataset = open_dataset(shared_data / "Task04_Hippocampus")
    found = []
    for case in dataset.training:
        volume, grid = read_image(case.image)
        low, high = np.percentile(volume, (0.5, 99.5))
        found.append(fingerprint(volume, grid.spacing_zyx, (float(low), float(high))))
    numbers = [int(case.name[-3:]) for case in dataset.training]
    sets = [{numbers[n] for n in item.cases} for item in find_alike(found)]
    assert {item.kind for item in find_alike(found)} == {"one scan"}
    assert [numbers for numbers in sets if len({(n + 1) // 2 for n in numbers}) > 1] == [{245, 299, 300}]
    stepped = {n for n, each in zip(numbers, found, strict=True) if each.step is not None}
    assert all({n, n + 1} <= set().union(*sets) for n in stepped if n % 2 and n + 1 in stepped)
