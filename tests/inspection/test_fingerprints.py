"""Fingerprints stay the same through what files do to a scan, and differ between scans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcseg.inspection.fingerprints import MOST_SLICES, Fingerprint, content_digest, fingerprint, intensity_step, sample

WINDOW = (-160.0, 240.0)


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(0, 100, (30, 40, 35)).round().astype(np.float32)


def prints(volume: np.ndarray) -> Fingerprint:
    return fingerprint(volume.astype(np.float32), (2.0, 1.0, 1.0), WINDOW)


def test_order_in_memory_does_not_matter(scan: np.ndarray) -> None:
    other = np.asfortranarray(scan)
    assert content_digest(scan) == content_digest(other)
    assert prints(scan).bag == prints(other).bag


def test_content_is_values_and_shape(scan: np.ndarray) -> None:
    changed = scan.copy()
    changed[3, 4, 5] += 1
    assert len({content_digest(each) for each in (scan, changed, scan.reshape(40, 30, 35))}) == 3
    assert prints(scan).bag != prints(changed).bag


@given(axes=st.permutations(range(3)), flips=st.lists(st.sampled_from((-1, 1)), min_size=3, max_size=3))
def test_the_bag_forgets_the_orientation(axes: list[int], flips: list[int]) -> None:
    volume = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    turned = volume.transpose(axes)[tuple(slice(None, None, step) for step in flips)]
    assert prints(turned).bag == prints(volume).bag


def test_brightness_and_contrast_do_not_matter(scan: np.ndarray) -> None:
    np.testing.assert_allclose(prints(scan * 0.5 + 300).thumbnail, prints(scan).thumbnail, atol=3e-3)


def test_voxels_of_a_kilometre_take_no_more_memory(scan: np.ndarray) -> None:
    for mm in (1e6, 3e38):
        assert len(fingerprint(scan.astype(np.float32), (mm, mm, mm), WINDOW).slices) <= MOST_SLICES


def test_slices_stand_for_10_mm(scan: np.ndarray) -> None:
    assert prints(scan).slices.shape == (6, 16, 16)
    assert prints(scan).thumbnail.shape == (16, 16, 16)


def test_small_and_constant_volumes_have_fingerprints() -> None:
    assert prints(np.zeros((1, 2, 3))).slices.shape == (1, 16, 16)
    assert intensity_step(np.zeros((3, 3, 3), np.float32)) is None


@given(step=st.floats(1e-3, 1e4), offset=st.integers(-1000, 1000))
def test_the_step_of_scaled_integers_is_found(step: float, offset: int) -> None:
    codes = np.random.default_rng(0).integers(0, 4000, (10, 20, 20))
    volume = (step * (codes + offset)).astype(np.float32)
    found = intensity_step(volume)
    if found is None:
        candidates = (float(f"{step:.3g}"), round(step), 1 / max(1, round(1 / step)))
        assert any(abs(near / step - 1) < 3e-6 for near in candidates)
    else:
        assert found == pytest.approx(step, rel=1e-6)


@pytest.mark.parametrize("step", [1.0, 0.25, 1 / 255, 16.0, 0.1])
def test_round_steps_say_nothing(step: float) -> None:
    codes = np.random.default_rng(0).integers(0, 4000, (10, 20, 20))
    assert intensity_step((step * codes).astype(np.float32)) is None


def test_continuous_intensities_have_no_step() -> None:
    assert intensity_step(np.random.default_rng(0).normal(size=(20, 30, 30)).astype(np.float32)) is None


def test_a_sample_is_everything_or_always_the_same() -> None:
    values = np.arange(1000.0).reshape(10, 10, 10)
    assert len(sample(values, 1000)) == 1000
    few = sample(values, 50)
    assert len(few) == 50
    np.testing.assert_array_equal(few, sample(np.asfortranarray(values), 50))
